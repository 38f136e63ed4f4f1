# SPDX-License-Identifier: Apache-2.0
"""Job files: a JobTemplate, or only its RunSpec, as strict proto JSON written in YAML or JSON."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, FileProblem, Position

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import job_pb2
    from finetree_api.types.v1 import run_spec_pb2
    from yaml.nodes import Node

MAX_VALUES = 100_000
"""Most values of a file with its aliases written out."""
MAX_FILE_BYTES = 1 << 20
"""Largest job file in bytes; real ones have about 2 kB."""
STDIN = "-"
"""Name of the standard input in place of a file."""
_ROWS = frozenset((".jsonl", ".csv", ".tsv", ".parquet", ".txt"))
"""Ends of names of training files, which are easily given in place of a job file."""
SPEC = "train.spec."
"""Path of the RunSpec's settings in a JobTemplate."""
TEMPLATE_KEYS = frozenset(
    (
        *("display_name", "train", "prepare", "export", "limits", "deadline", "suspended", "priority"),
        "retry_policy",
        *("labels", "annotations", "spec"),
    )
)
"""Top-level keys that make a file a JobTemplate; none is a RunSpec's. `spec` is refused there with its right place."""


@dataclass(frozen=True, slots=True)
class LocalData:
    """A data file of this machine that a job file names by a relative or absolute path."""

    field_path: str
    """"dataset" or "evaluation.dataset", as a RunSpec path."""
    path: Path


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file without mistakes."""

    template: "job_pb2.JobTemplate"
    file: str
    """Name of the file in messages."""
    positions: dict[str, Position]
    """Position of each value by its path in a JobTemplate ("train.spec.training.epochs")."""
    short: bool = True
    """Whether the file is the RunSpec alone: messages then leave "train.spec." out of paths."""

    @property
    def spec(self) -> "run_spec_pb2.RunSpec":
        """Return the run; changes of it are changes of the job. Raises BadInput for a job that does not train."""
        if self.template.WhichOneof("task") != "train":
            raise BadInput(f"{self.file}: the job does not train", remedy="this command needs a job with `train`")
        return self.template.train.spec

    def position_of(self, field_path: str) -> Position:
        """Return the position of a JobTemplate path, or of the nearest setting around it."""
        return nearest(self.positions, field_path) or Position(self.file, 1, 1)

    def problems(self, violations: Sequence[tuple[str, str]]) -> list[FileProblem]:
        """Add positions in this file to a server's violations (request path, text)."""
        found = []
        for field, text in violations:
            path = field.removeprefix("sweep.").removeprefix("job.").removeprefix("run.")
            path = f"train.{path}" if path.startswith("spec.") else path
            shown = path.removeprefix(SPEC) if self.short else path
            found.append(FileProblem(self.position_of(path), shown, text))
        return found

    def local_data(self) -> list[LocalData]:
        """List the datasets that are given by path and exist on this machine; relative paths begin at the job file."""
        return [item for item in self._data_by_path() if item.path.is_file()]

    def absent_data(self) -> list[LocalData]:
        """List the datasets that are given by path and are no file on this machine: they may be the trainer's."""
        return [item for item in self._data_by_path() if not item.path.is_file()]

    def _data_by_path(self) -> list[LocalData]:
        if self.template.WhichOneof("task") != "train":
            return []
        beside = Path.cwd() if self.file == "<stdin>" else Path(self.file).parent
        named = [("dataset", self.spec.dataset), ("evaluation.dataset", self.spec.evaluation.dataset)]
        return [
            LocalData(path, beside / source.path) for path, source in named if source.WhichOneof("source") == "path"
        ]


def nearest(positions: Mapping[str, Position], field_path: str) -> Position | None:
    """Return the position of a path, or of the nearest value around it; None if there is none."""
    path = field_path
    while path and path not in positions:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return positions.get(path)


def read_job(name: str) -> JobFile:
    """Read a job file, or the standard input for "-".

    Raises:
        BadInput: The file cannot be read or is no job; each problem has file, line, column and proto path.
    """
    try:
        file, text = read_text(name)
        return parse_job(text, file)
    except BadInput as error:
        if error.reason == "JOB_FILE_INVALID" and _ROWS.intersection(Path(name).suffixes):
            error.remedy = (
                "these are training rows: `finetree recommend --data FILE --output job.yaml` writes a job file"
            )
        raise


def parse_job(text: str, file: str) -> JobFile:
    """Parse the text of a job file; `file` is its name in messages. Raises BadInput."""
    return job_of(compose(text, file), file)


def job_of(root: "Node", file: str) -> JobFile:
    """Read a job from a YAML tree of a file. Raises BadInput."""
    from finetree_api.trainer.v1 import job_pb2

    from finetree_cli.jobfile.yaml_reader import YamlReader

    template = job_pb2.JobTemplate()
    reader = YamlReader(file)
    short = not _is_template(root)
    if short:
        template.train.spec.SetInParent()
        reader.read(root, template.train.spec)
        reader.positions = {SPEC + path: position for path, position in reader.positions.items()}
    else:
        reader.read(root, template)
    if reader.problems:
        raise _invalid(file, reader.problems)
    return JobFile(template, file, reader.positions, short)


def read_text(name: str) -> tuple[str, str]:
    """Return the name in messages and the text of a file, or of the standard input for "-". Raises BadInput."""
    file = "<stdin>" if name == STDIN else name
    raw = b""
    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == STDIN else _read(Path(name))
        if len(raw) > MAX_FILE_BYTES:
            raise BadInput(
                f"{file}: larger than {MAX_FILE_BYTES} bytes; this is no job file", reason="JOB_FILE_INVALID"
            )
        return file, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}:{line}:1: not UTF-8 text; save the file as UTF-8", reason="JOB_FILE_INVALID") from error
    except OSError as error:
        remedy = "name a job file, or - for the standard input; `finetree recommend --output job.yaml` writes one"
        raise BadInput(f"{file}: {error.strerror}", remedy=remedy, reason="JOB_FILE_UNREADABLE") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def compose(text: str, file: str) -> "Node":
    """Parse YAML to its tree of nodes; `file` is the name in messages. Raises BadInput with the position."""
    import yaml

    # YAML forbids tabs between tokens and JSON allows them; inside JSON text a raw tab is no legal character anyway.
    plain = text.replace("\t", " ") if text.lstrip()[:1] == "{" else text
    start = Position(file, 1, 1)
    try:
        root = yaml.compose(plain, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(file, mark.line + 1, mark.column + 1) if mark else start
        problem = f"not YAML: {error.problem or error.context}"
        raise _invalid(file, [FileProblem(position, "", problem)]) from error
    except yaml.YAMLError as error:
        raise _invalid(file, [FileProblem(start, "", f"not YAML: {error}")]) from error
    except RecursionError as error:
        raise _invalid(file, [FileProblem(start, "", "nested too deeply")]) from error
    if root is None:
        raise _invalid(file, [FileProblem(start, "", "the file is empty")])
    if "*" in plain and "&" in plain and _size(root, {}) > MAX_VALUES:
        text = f"its aliases stand for more than {MAX_VALUES} values; write them out"
        raise _invalid(file, [FileProblem(start, "", text)])
    return root


def _size(node: "Node", sizes: dict[int, int]) -> int:
    """Count the values of a tree with its aliases written out: a few lines can stand for billions, or have no end."""
    if not isinstance(node.value, list):
        return 1
    if id(node) not in sizes:
        # Met again below itself it would have no end.
        sizes[id(node)] = MAX_VALUES + 1
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _is_template(root: "Node") -> bool:
    """Tell whether the top level is a JobTemplate and not a RunSpec."""
    from yaml.nodes import MappingNode

    return isinstance(root, MappingNode) and any(key.value in TEMPLATE_KEYS for key, _ in root.value)


def _invalid(file: str, problems: Sequence[FileProblem]) -> BadInput:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return BadInput(f"{count} in {file}", reason="JOB_FILE_INVALID", problems=problems)
