# SPDX-License-Identifier: Apache-2.0
"""The method comparison's results as rows of the evidence pack.

Prints the rows for a person to look at; with --patch it also puts them between the pack's markers, checks that the pack
still loads, and says its new hash. A running service never sees that: whoever commits the pack sets its date, and the
next start has it. The same file gives the same rows.

    .venv/bin/python benchmarks/recommender/evidence_rows.py
    .venv/bin/python benchmarks/recommender/evidence_rows.py --patch
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetree_recommender.rule_pack.pack import builtin_packs, parse

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/worker/methods.json"
PACK = ROOT / "services/recommender/finetree_recommender/rule_pack/packs/evidence-1.yaml"
BASES = ("playbook-1",)
BEGIN, END = "    # measured rows: begin\n", "    # measured rows: end\n"
SOURCE = "methods-benchmark"
"""Key of the results among the pack's sources."""


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Findings of every method but full fine-tuning, against which they are measured."""
    summaries = document["summaries"]
    full = {row["task"]: row for row in summaries if row["method"] == "full"}
    found = []
    for row in summaries:
        if row["method"] != "full":
            found += [*_quality(row, document["model"]), *_pace(row, full.get(row["task"]), document["model"])]
    return found


def _quality(row: Mapping[str, Any], model: str) -> Iterator[dict[str, Any]]:
    """Accuracy over that of full fine-tuning, percent, with its 95 % interval."""
    ratio = row["relative_to_full"]
    if ratio is None:
        return
    figures = {name: round(100 * ratio[name], 1) for name in ("low", "expected", "high")}
    claim = f"accuracy on {row['task']} against full fine-tuning, {model}, {_seeds(row)}, percent"
    text = f"{figures['expected']:g} % ({figures['low']:g} to {figures['high']:g})"
    yield _row(row, "quality") | {"claim": claim, "text": text} | figures


def _pace(row: Mapping[str, Any], full: Mapping[str, Any] | None, model: str) -> Iterator[dict[str, Any]]:
    """Tokens a second over those of full fine-tuning on the same machine; nothing where either was not timed."""
    if row["pace"] is None or full is None or full["pace"] is None:
        return
    times = round(row["pace"]["tokens_per_second"] / full["pace"]["tokens_per_second"], 2)
    claim = f"tokens a second against full fine-tuning, {row['task']}, {model}, on the benchmark's machine"
    figures = {"low": times, "expected": times, "high": times}
    yield _row(row, "speed") | {"claim": claim, "text": f"{times:g} times"} | figures


def _seeds(row: Mapping[str, Any]) -> str:
    count = len(row["seeds"])
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _row(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {
        "id": f"measured.{row['task']}.{row['method']}.{what}",
        "methods": [row["method"].upper()],
        "source": f"{SOURCE}: summaries, {row['task']}, {row['method']}",
    }


def lines(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as lines of the pack. JSON is YAML."""
    return "".join(f"    - {json.dumps(row, ensure_ascii=False)}\n" for row in found)


def patched(pack: str, block: str) -> str:
    """The pack's text with the rows between its markers. Raises ValueError where it has no markers."""
    before, begin, rest = pack.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the pack has no markers for measured rows")
    return before + begin + block + end + after


def main() -> None:
    """Print the rows; write them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pack", type=Path, default=PACK)
    parser.add_argument("--patch", action="store_true", help="write the rows into the pack")
    options = parser.parse_args()
    block = lines(rows(json.loads(options.results.read_text(encoding="utf-8"))))
    text = patched(options.pack.read_text(encoding="utf-8"), block)
    builtin = builtin_packs()
    checked = parse(text.encode(), {name: builtin[name] for name in BASES})
    print(block, end="")
    if options.patch:
        options.pack.write_text(text, encoding="utf-8")
        print(f"written: {checked.rules.id}, now {checked.sha256}; set its date and look at the difference")


if __name__ == "__main__":
    main()
