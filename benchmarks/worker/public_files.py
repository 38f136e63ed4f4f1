# SPDX-License-Identifier: Apache-2.0
"""What becomes of training files of other projects, unmodified.

    python benchmarks/worker/public_files.py FOLDER --model MODEL_FOLDER [--output public_files.json [--update]]

FOLDER has a folder for each project with its files in it; none of them is part of this repository. Where there is a
FOLDER/sources.json, {"project": {"repository": URL, "commit": hash}}, its entries are copied. Each file is read as the
service reads it before a job is accepted, then as a task reads and tokenizes it (the first 200 of its rows are
tokenized), with MODEL_FOLDER's tokenizer and chat template. A file is "read", or "refused" with a reason; where the
refusal or a finding offers a mapping of its columns, the file is read with that. No text of the files is kept, and no
time is measured. With --update, files that FOLDER does not have keep their entries, which have no "findings".
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from finetree_data.errors import DatasetError
from finetree_data.options import Columns, Reading
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.datasets.validate import validate_file
from finetree_worker.errors import TaskError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.rows import RowSource, found_row_format, rows_of
from finetree_worker.tokenize.tokenizer import RowTokenizer, TokenBlock, blocks
from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOKENIZED_ROWS = 200
OFFER = re.compile(r"columns \{([^{}…]+: [^{}…]+)\}")
COLUMN = re.compile(r'(\w+): (?:"([^"]*)"|([^,"]+))(?:, |$)')


def outcome(path: Path, tokenizer: PreTrainedTokenizerBase, columns: Columns | None = None) -> dict[str, Any]:
    """How a file is read, or why not."""
    reading = Reading(name=path.name, columns=columns or Columns())
    file = RowSource(path, reading).open()
    try:
        validate_file(path, reading)
        rows = rows_of(file)
        first = list(islice(rows, TOKENIZED_ROWS))
        maker = RowTokenizer(tokenizer, LossOn.COMPLETIONS)
        targets = [
            n for some in blocks(first) for n in _targets(maker.block(some, maker.render(some, found_row_format(file))))
        ]
        count = len(first) + sum(1 for _ in rows)
    except InvalidArgument as error:
        return {"outcome": "refused", "by": "service", "reason": error.reason, "message": _told(error.message)}
    except (TaskError, DatasetError) as error:
        return {"outcome": "refused", "by": "worker", "reason": error.reason, "message": _told(str(error))}
    tokens, learned = (sum(column) for column in zip(*targets, strict=True))
    written = f"{file.file_format}" + (f"+{file.compression}" if file.compression else "")
    return {
        "outcome": "read",
        "file_format": written,
        "row_format": found_row_format(file).value,
        "rows": count,
        "left_out": file.skipped,
        "learned_share": round(learned / tokens, 4),
        "rows_without_target": sum(not learned_of_row for _, learned_of_row in targets),
        "notes": [remark.message for remark in file.remarks],
        "findings": [
            {"code": one.code, "severity": one.severity.name.lower(), "message": one.message} for one in file.findings
        ],
    }


def _targets(block: TokenBlock) -> Iterator[tuple[int, int]]:
    """Tokens of each row, and those of them that are learned: never the first."""
    for start, end in pairwise([0, *block.lengths.cumsum().tolist()]):
        yield end - start, int(block.learned[start + 1 : end].sum())


def _told(message: str) -> str:
    """The message without the list of the file's columns: a table without a header has its first row there."""
    return re.sub(r"(its columns are: ).*?(?=; |: |$)", r"\1…", message)


def offered(message: str) -> Iterator[Columns]:
    """The mappings that a refusal offers."""
    for mapping in OFFER.findall(message):
        yield Columns(**{part: quoted or plain for part, quoted, plain in COLUMN.findall(mapping)})


def entry(path: Path, folder: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """One file's line of the result."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    project, _, name = path.relative_to(folder).as_posix().partition("/")
    found = outcome(path, tokenizer)
    messages = [found.get("message", ""), *(one["message"] for one in found.get("findings", ()))]
    for columns in (columns for message in messages for columns in offered(message)):
        found.setdefault("with_the_offered_mapping", []).append(columns.given() | outcome(path, tokenizer, columns))
    return {"project": project, "file": name, "bytes": path.stat().st_size, "sha256": digest} | found


def main() -> None:
    """Read every file and write what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.update else {"files": [], "sources": {}}
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    files = [path for path in sorted(options.folder.glob("*/**/*")) if path.is_file()]
    entries = [entry(path, options.folder, tokenizer) for path in files]
    mine = {(item["project"], item["file"]) for item in entries}
    entries += [item for item in known["files"] if (item["project"], item["file"]) not in mine]
    entries.sort(key=lambda item: (item["project"], item["file"]))
    sources = options.folder / "sources.json"
    result = {
        "what": "Training files of other projects, read unmodified",
        "tokenizer": getattr(tokenizer, "name_or_path", "").rpartition("/")[2],
        "sources": known["sources"] | (json.loads(sources.read_text(encoding="utf-8")) if sources.is_file() else {}),
        "counts": dict(sorted(Counter(item["outcome"] for item in entries).items())),
        "files": entries,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(json.dumps(result["counts"]))


if __name__ == "__main__":
    main()
