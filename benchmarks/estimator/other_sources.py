# SPDX-License-Identifier: Apache-2.0
"""How far the estimator is from published runs of sources that it has never seen (other_rows.csv and its successors).

    python benchmarks/estimator/other_sources.py [--json OUT] [--rows]

No expected value is fitted on these rows, none may be; how far the ends are from it was judged by them once
(METHOD_SPREAD). Scored as in accuracy.py: a published peak against `expected` of its quantity, under-prediction
against the upper end, rows above 92 % of their card left out. One source more or less moves the mean over all rows:
tables go by source and by method as well; `mean over sources` weighs each the same. Speeds over two or three steps,
the first among them, are no speed of a training: they stand apart, as `first steps`. The rows of fresh_rows.csv were
gathered after formulas had been fixed from what other_rows.csv showed: until formulas are corrected from them too they
are the test, and later_rows.csv and sharded_rows.csv after them, so each table is summed up on its own.

Not in the table, since the recipe is unknown where it matters or no request can say it: full training on 16-bit shards
(fms-acceleration's rows without mixed precision; TRANSFORMERS means float32 shards); that source's runs with fused
kernels but stock loss, with ever other row lengths, and of mixtures with kernels for experts; LoRA with trained
embeddings and full training under DeepSpeed (Qwen); models of ms-swift other than Qwen, whose attention kernel is not
known; weights offloaded to the host (fsdp_qlora, PEFT's guides); torchtune's runs whose settings are not those of a
configuration; selective checkpointing and tensor parallelism (torchtitan); Axolotl's examples of models without a
shape here, and of images; Unsloth's notebooks over rows of ever other lengths, and its longest context by card, which
is a limit and no peak; models with a module of somebody's own; a table whose repository could not be named; a decoder
whose loss picks what is no padding, of which it has an unknown share (mikhailbahdashych/memory-efficient-transformer-
training-techniques: 12 peaks that were in fresh_rows.csv at first, predicted 83 % too high); runs whose row lengths are
not said, as of gsm8k (backpropagate's and peft-experiments' logs), and papers' tables that could not be read whole;
P-tuning of a quantized model or through an encoder (ChatGLM), some layers alone, images beside the text (Qwen-VL),
pipelines of layers (InternEvo, Megatron), and GPUs that stand for several ranks of DeepSpeed.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from accuracy import FULL_CARD, Scored, print_table, shown, summary
from finetree_api.types.v1 import evidence_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import DomainError
from made_runs import MadeRuns
from other_rows import TABLES, OtherRow, other_rows


def scores(rows: Iterable[OtherRow], servicer: MadeRuns) -> Iterator[Scored]:
    """What can be scored of the rows."""
    for row in rows:
        try:
            found = servicer.estimate(row.request)
        except DomainError as error:
            print(f"refused: {row.label}: {error}")
            continue
        limit = FULL_CARD * accelerator(row.accelerator).usable_bytes
        for quantity, peak in row.peaks.items():
            if peak <= limit:
                interval = getattr(found.memory, f"{quantity}_bytes")
                label = f"{row.label} ({quantity})"
                yield Scored("memory", f"{row.source} · {row.group}", label, peak, *_ends(interval))
        if row.tokens_per_second is not None:
            rate, kind = found.time.tokens_per_second, "speed" if row.steady else "first steps"
            yield Scored(kind, f"{row.source} · {row.group}", row.label, row.tokens_per_second, *_ends(rate))


def _ends(interval: evidence_pb2.Interval) -> tuple[float, float, float]:
    return interval.low, interval.expected, interval.high


def table(found: list[Scored]) -> dict[str, dict[str, float]]:
    """Summaries of all rows of a kind, by source, by method, and by both."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in found:
        source, method = one.group.split(" · ", 1)
        for name in ("all", source, method, one.group):
            groups[f"{one.kind} · {name}"].append(one)
    return {name: summary(members) for name, members in sorted(groups.items())}


def over_sources(found: list[Scored]) -> dict[str, float]:
    """Mean absolute error of memory and of speed where each source weighs the same."""
    errors: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        errors[one.kind][one.group.split(" · ", 1)[0]].append(abs(one.error))
    return {kind: round(statistics.mean(map(statistics.mean, of.values())), 4) for kind, of in errors.items()}


def main() -> None:
    """Score the table and print, or write, the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", action="store_true", help="print every row, worst last")
    options = parser.parse_args()
    servicer = MadeRuns(Knowledge(price_book.packaged()))
    found: list[Scored] = []
    body: dict[str, object] = {"constants": "none was fitted on these rows"}
    for path in TABLES:
        rows = other_rows((path,))
        of = list(scores(rows, servicer))
        result = table(of)
        print_table(path.stem, result)
        print(f"mean over sources: {over_sources(of)}")
        body[path.stem] = {"rows": len(rows), "mean_over_sources": over_sources(of), "tables": result}
        found += of
    peaks = [one for one in found if one.kind == "memory"]
    sources = len({one.group.split(" · ", 1)[0] for one in peaks})
    body["all"] = {"sources": sources, "memory": summary(peaks)}
    if options.rows:
        for one in sorted(found, key=lambda one: (one.kind, one.group, abs(one.error))):
            print(f"{one.error:+8.1%} {one.kind} {one.group}: {one.label}  {shown(one)}")
    if options.json:
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
