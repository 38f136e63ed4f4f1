# SPDX-License-Identifier: Apache-2.0
"""How fast a file of chats becomes tokens: here, and by TRL's own preparation, in turns on the same file.

    python benchmarks/worker/data_speed.py [--rows 1700] [--rounds 5] [--output data_speed.json]

The rows are chats of docstring_rows.py, the tokenizer is SmolLM2's, and its template marks the assistant's words, as
TRL needs it. A round reads the file anew and knows nothing of the one before: here it is read, checked, rendered,
tokenized, hashed, counted and written to a table; there it is loaded with datasets and goes through SFTTrainer's
preparation (data_speed_peer.py). In the job "completions" both mark what is learned, in "all" everything is. Each has
one process, and the tokenizers library one thread: CPU time is what is compared, since it holds on a busy machine too.
The peer's environment is that of against_trl.py, below --cache.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import docstring_rows
import turns
from against_trl import HERE, PEERS, environment, prepared_model
from pacing import Pacer, peak_bytes, settings
from turns import Side, Step

JOBS = ("completions", "all")
WARM_UP = 1
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def own() -> None:
    """This project's side: a round is what a task does with a file that it has not seen."""
    from finetree_worker.plan import LossOn
    from finetree_worker.tokenize.cache import TableInput, tokenized
    from finetree_worker.tokenize.rows import RowSource
    from transformers import AutoTokenizer

    asked = settings()
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    tokenizer.chat_template = asked["template"]
    source, work = RowSource(Path(asked["rows"])), Path(asked["work"])
    loss_on = LossOn.ALL if asked["job"] == "all" else LossOn.COMPLETIONS
    pacer = Pacer()
    pacer.ready()
    for _ in range(asked["rounds"]):
        table = tokenized(TableInput(source, tokenizer, loss_on), work, lambda *_: None).table
        pacer.step(tokens=len(table.tokens), loss=int(table.learned.sum()))
    pacer.tell("done", peak_bytes=peak_bytes())


def compare(job: str, options: argparse.Namespace, rows: Path, folder: Path) -> dict[str, Any]:
    """One job, in turns."""
    asked = {
        "model": str(prepared_model(options.cache)),
        "template": TEMPLATE,
        "rows": str(rows),
        "job": job,
        "rounds": WARM_UP + options.rounds,
    }
    mine = Side([sys.executable, "-W", "ignore", __file__, "--own"], asked | {"work": str(folder / f"own-{job}")})
    peer = [str(environment("trl", options.cache)), "-W", "ignore", str(HERE / "data_speed_peer.py")]
    theirs = Side(peer, asked | {"work": str(folder / f"peer-{job}")})
    turns.take_turns(mine, theirs, warm_up=WARM_UP, rounds=options.rounds)
    sides = {"own": figures(mine, options.rows), "peer": figures(theirs, options.rows)}
    ratios = [t.cpu_seconds / m.cpu_seconds for m, t in zip(_counted(mine), _counted(theirs), strict=True)]
    return {
        "job": job,
        "ratio_of_cpu_time": round(statistics.median(ratios), 2),
        "ratio_by_round": [round(ratio, 2) for ratio in ratios],
    } | sides


def figures(side: Side, rows: int) -> dict[str, Any]:
    """A side's numbers; what it learns is said with each step as its loss."""
    steps = _counted(side)
    cpu = statistics.median(step.cpu_seconds for step in steps)
    return {
        "cpu_microseconds_per_row": round(cpu / rows * 1e6, 1),
        "rows_per_cpu_second": round(rows / cpu),
        "rows_per_second": round(rows / statistics.median(step.seconds for step in steps)),
        "tokens": steps[-1].tokens,
        "learned_tokens": round(side.losses[-1]),
        "peak_bytes": side.peak_bytes,
    }


def _counted(side: Side) -> list[Step]:
    return side.steps[WARM_UP:]


def machine() -> dict[str, Any]:
    """What it was measured on; a load far above one means that the machine was shared."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return {
        "cpu": next(line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "cores": cores,
        "load_at_start": round(load, 2),
        "shared": load > cores / 2,
        "python": ".".join(map(str, sys.version_info[:3])),
        "peer": PEERS["trl"],
    }


def main() -> None:
    """Compare the jobs and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1700)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "finetree-peers")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    document = {"benchmark": "data_speed", "machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name) / "rows.jsonl"
        digest = docstring_rows.write(rows, docstring_rows.rows(options.rows))
        document["rows"] = {"count": options.rows, "bytes": rows.stat().st_size, "sha256": digest}
        document["jobs"] = [compare(job, options, rows, Path(name)) for job in options.jobs]
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--own"]:
        del sys.argv[1]
        own()
    else:
        main()
