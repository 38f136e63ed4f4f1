# SPDX-License-Identifier: Apache-2.0
"""Makes the estimator's evidence: published runs, one row for each distinct case, from tables of measurements.

    python benchmarks/estimator/evidence.py MEASUREMENTS.csv [MORE.csv ...] [--output FILE]

The tables are those that rows.py reads. Repeats of a case (the same model, method, device and tokens of a micro-batch)
become one row with the medians. Left out is what the estimator cannot be asked for, and peaks above 92 % of a card,
where the allocator fills what there is. Rows that are kept apart to validate with must not be given to this program.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from finetree_api.types.v1 import hardware_pb2, training_pb2
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.price_book import packaged
from finetree_estimator.shapes.parameters import count
from finetree_estimator.spec.resolve import Knowledge, read_model
from row_requests import request
from rows import MeasuredRow, measured_rows

OUTPUT = Path(__file__).parents[2] / "services/estimator/finetree_estimator/catalog/data/evidence.csv"
FULL_CARD = 0.92
BITS = {"none": 0, "nf4": 4, "nf4-dq": 4}


def main() -> int:
    """Read the tables and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cases: dict[tuple[object, ...], list[MeasuredRow]] = defaultdict(list)
    for table in options.tables:
        for row in measured_rows(table):
            if row.answerable and row.outcome == "fit":
                cases[_case(row)].append(row)
    with options.output.open("w", encoding="utf-8", newline="") as out:
        found = [_merged(cases[case]) for case in sorted(cases, key=repr)]
        writer = csv.DictWriter(out, found[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(f"{options.output.name}: {len(cases)} cases of {sum(map(len, cases.values()))} runs")
    return 0


def _case(row: MeasuredRow) -> tuple[object, ...]:
    """What must agree for two runs to be repeats of each other."""
    tokens = row.sequence_length * row.micro_batch
    adapter = (row.variant, row.rank, row.targets, row.virtual_tokens, row.quant)
    hardware = (row.accelerator, row.devices, row.nodes)
    return (row.family, row.published_model, row.model, row.method, adapter, row.checkpointing, hardware, tokens)


def _merged(repeats: list[MeasuredRow]) -> dict[str, object]:
    """One row of evidence from the repeats of a case; the newest of those with a peak names the source."""
    row = max(repeats, key=lambda item: (item.peak_bytes is not None, _date(item), item.source))
    tokens = row.sequence_length * row.micro_batch
    peaks = [item.peak_bytes for item in repeats if item.peak_bytes is not None and not _fills_card(item)]
    speeds = [item.tokens_per_second for item in repeats if item.tokens_per_second]
    mean = row.total_tokens / row.examples if row.total_tokens else float(row.sequence_length)
    source, _, locator = row.source.partition(" ")
    return {
        "program": training_pb2.TrainingProgram.Name(row.program)
        .removeprefix("TRAINING_PROGRAM_")
        .lower()
        .replace("_", "-"),
        "model": row.published_model,
        "parameters": count(read_model(request(row).spec.model, Knowledge(packaged())).shape).total,
        "method": "lora" if row.method == "qlora" else row.method,
        "bits": BITS[row.quant],
        "variant": row.variant,
        "rank": row.rank or "",
        "targets": ";".join(row.targets),
        "virtual_tokens": row.virtual_tokens or "",
        "peak_tokens": tokens,
        "mean_tokens": round(mean * row.micro_batch),
        "checkpointing": "full" if row.checkpointing else "off",
        "accelerator": row.accelerator,
        "devices": row.devices,
        "sharding": hardware_pb2.Sharding.Name(request(row).spec.hardware.sharding)
        .removeprefix("SHARDING_")
        .lower()
        .replace("unspecified", ""),
        "nodes": row.nodes,
        "peak_kind": row.quantity if peaks else "",
        "peak_bytes": round(statistics.median(peaks)) if peaks else 0,
        "tokens_per_second": f"{statistics.median(speeds):.6g}" if speeds else 0,
        "runs": len(repeats),
        "source": source,
        "locator": locator,
        "date": _date(row),
    }


def _date(row: MeasuredRow) -> str:
    """Day of the run, where the note says it."""
    return row.note.partition("created ")[2][:10]


def _fills_card(row: MeasuredRow) -> bool:
    """Whether the peak says more of the card than of the run."""
    usable = accelerator(row.accelerator).usable_bytes
    return row.saturated or (row.peak_bytes is not None and row.peak_bytes > FULL_CARD * usable)


if __name__ == "__main__":
    sys.exit(main())
