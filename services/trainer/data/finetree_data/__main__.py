# SPDX-License-Identifier: Apache-2.0
"""Reports on the rows of files of this machine: `python -m finetree_data`, as `finetree data check` starts it.

Standard input has a PrepareTask as proto JSON whose datasets are given by path; its model is not used. Standard output
gets a JSON object on each line: `progress` (PhaseProgress), and for each dataset `report` (DatasetReport) with `rows`
(PreviewRow), the first of them by their roles; or at last `error` (reason, message, remedy), with exit code 2.
"""

import importlib.util
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from finetree_data.contract import reading_of
from finetree_data.errors import DatasetError
from finetree_data.files.content import PARQUET
from finetree_data.files.parquet import parquet_rows
from finetree_data.files.parquet_footer import read_footer
from finetree_data.options import FileFormat, Reading
from finetree_data.reader import RowFile
from finetree_data.report.build import RowsReport, Use, columns_report, read_rows

STEP = 0.005
"""Share of the reading after which progress is told again."""
REFUSED = 2
"""Exit code for files that are refused."""


def main() -> int:
    """Report on the files of the task on standard input; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to explain
    task = json_format.Parse(sys.stdin.read(), job_pb2.PrepareTask())
    try:
        for made in reports(task):
            _write(report=_as_dict(made.report), rows=[_as_dict(row) for row in made.first_rows])
    except DatasetError as error:
        _write(error={"reason": error.reason, "message": error.problem, "remedy": error.remedy})
        return REFUSED
    except BrokenPipeError:  # the parent is gone
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        return REFUSED
    return 0


def reports(task: job_pb2.PrepareTask) -> Iterator[RowsReport]:
    """Yield a report on the training rows, and one on the held-out rows where the task has some.

    Raises DatasetError whose problem begins with the file's name.
    """
    sources = [(training_data_pb2.SPLIT_TRAIN, task.dataset)]
    if task.HasField("evaluation_dataset"):
        sources.append((training_data_pb2.SPLIT_EVALUATION, task.evaluation_dataset))
    use = Use(task.sequence_length, task.loss_tokens)
    train: RowsReport | None = None
    for index, (split, source) in enumerate(sources):
        reading, progress = reading_of(source), _Progress(index, len(sources))
        try:
            if is_unread_parquet(Path(source.path), reading):
                made = RowsReport(columns_report(read_footer(Path(source.path)), reading, split))
            else:
                file = RowFile(Path(source.path), reading, parquet_rows)
                made = read_rows(file, split, use=use, train=train, on_progress=progress)
        except DatasetError as error:
            error.problem = f"{reading.name}{', ' if error.row else ': '}{error.problem}"
            raise
        train = train or made
        yield made


def is_unread_parquet(path: Path, reading: Reading) -> bool:
    """Return whether a file is Parquet, whose rows nothing that is installed reads."""
    if reading.file_format not in (None, FileFormat.PARQUET) or importlib.util.find_spec("pyarrow") is not None:
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(PARQUET)) == PARQUET
    except OSError:
        return False  # said where the rows are read


class _Progress:
    """Tells how far the reading of one of several files is."""

    def __init__(self, index: int, files: int) -> None:
        self._index, self._files, self._told = index, files, 0.0

    def __call__(self, fraction: float, rows: int) -> None:
        if fraction - self._told < STEP:
            return
        self._told = fraction
        told = event_pb2.PhaseProgress(
            phase=job_pb2.JOB_PHASE_TOKENIZE,
            fraction=(self._index + fraction) / self._files,
            done=rows,
            unit=event_pb2.PROGRESS_UNIT_ROWS,
        )
        _write(progress=_as_dict(told))


def _as_dict(message: Message) -> dict[str, object]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _write(**line: dict[str, object] | Sequence[dict[str, object]]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
