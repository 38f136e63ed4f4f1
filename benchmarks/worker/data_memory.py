# SPDX-License-Identifier: Apache-2.0
"""How the peak memory of reading and tokenizing a file grows with its rows.

    python benchmarks/worker/data_memory.py [--rows 2000 24000 72000 144000] [--output data_memory.json]

For each way of writing the same chats (JSONL, a JSON array, gzip, Parquet) and each number of rows, a process of its
own reads and tokenizes the file as a training task does, and reports its peak resident memory (VmHWM). The slope is
that between the two largest files; it falls with the rows while the heap settles, so it is an upper bound for larger
ones. Memory is counted, not time: the figures hold on a busy machine too.
"""

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITTEN = ("jsonl", "json", "jsonl.gz", "parquet")
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "it",
    "rests",
    "in",
    "the",
    "shade",
    "of",
    "an",
    "old",
    "oak",
    "tree",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chats(rows: int) -> Iterator[dict[str, Any]]:
    """Different chats of about 60 words."""
    for number in range(rows):
        words = [WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(60)]
        question, answer = " ".join(words[:20]), " ".join(words[20:])
        yield {
            "messages": [
                {"role": "user", "content": f"{number} {question}"},
                {"role": "assistant", "content": answer},
            ]
        }


def write(path: Path, rows: int) -> None:
    """Write the chats as the file's name says."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(chats(rows))), path, row_group_size=10_000)
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:
        array = path.suffix == ".json"
        stream.write("[" if array else "")
        for number, row in enumerate(chats(rows)):
            stream.write((",\n" if array and number else "") + json.dumps(row) + ("" if array else "\n"))
        stream.write("]" if array else "")


def tokenizer() -> Any:
    """A byte tokenizer with a chat template: a real vocabulary would add its own, constant size."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    return fast


def measure(path: Path) -> dict[str, int]:
    """Read and tokenize the file in this process; bytes before and at the peak."""
    from finetree_worker.plan import LossOn
    from finetree_worker.tokenize.cache import TableInput, tokenized
    from finetree_worker.tokenize.rows import RowSource

    reader = tokenizer()
    reader("warm up")
    before = _peak()
    wanted = TableInput(RowSource(path), reader, LossOn.COMPLETIONS)
    table = tokenized(wanted, path.parent, lambda *_: None).table
    return {"before_bytes": before, "peak_bytes": _peak(), "rows": len(table.rows), "tokens": len(table.tokens)}


def _peak() -> int:
    """VmHWM of this process; ru_maxrss would begin with the peak of the process that wrote the file."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes a row between the two largest of (rows, bytes): before, the heap still settles."""
    (rows, size), (more_rows, more) = sorted(points)[-2:]
    return (more - size) / (more_rows - rows)


def main() -> None:
    """Measure every file in a process of its own and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 24_000, 72_000, 144_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = [_series(written, options.rows) for written in WRITTEN]
    document = {"machine": _cpu(), "python": platform.python_version()}
    text = json.dumps(document | {"files": results}, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _series(written: str, counts: list[int]) -> dict[str, Any]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in counts:
            path = Path(folder) / f"{rows}.{written}"
            write(path, rows)
            command = [sys.executable, __file__, "--measure", str(path)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append({"file_bytes": path.stat().st_size} | json.loads(answer.splitlines()[-1]))
            path.unlink()
    per_row = slope([(point["rows"], point["peak_bytes"]) for point in found])
    return {"written": written, "bytes_per_row": round(per_row, 1), "points": found}


if __name__ == "__main__":
    main()
