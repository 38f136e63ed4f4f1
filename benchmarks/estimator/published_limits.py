# SPDX-License-Identifier: Apache-2.0
"""Whether a run fits: the verdict against published limits (published_limits.csv).

    python benchmarks/estimator/published_limits.py [--json OUT]

A row is a run whose source says that it ran on a card, or that it ran out of memory there. Of a published longest row a
tenth less is asked as what ran, and a tenth more as what did not. A verdict of FITS or TIGHT says that it runs.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

from finetree_api.types.v1 import estimate_summary_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from other_rows import request_of

TABLE = Path(__file__).with_name("published_limits.csv")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Answered:
    """A published run, and what is said of it; the peak in GiB."""

    source: str
    run: str
    ran: bool
    verdict: str
    probability: float
    peak: float

    @property
    def right(self) -> bool:
        """Whether the verdict is what came of the run."""
        return (self.verdict in ("FITS", "TIGHT")) == self.ran


def answers(path: Path = TABLE) -> list[Answered]:
    """What is said of each row of the table. Raises KeyError (an unknown word), and DomainError for a refused row."""
    servicer = EstimatorServicer(Knowledge(price_book.packaged()))
    with path.open(encoding="utf-8", newline="") as file:
        return [_answer(row, servicer) for row in csv.DictReader(file)]


def _answer(row: dict[str, str], servicer: EstimatorServicer) -> Answered:
    found = servicer.estimate(request_of(row))
    run = f"{row['model']} {row['method']} {row['micro_batch']}x{row['sequence_length']} {row['accelerator']}"
    return Answered(
        source=row["source"].split("@")[0],
        run=f"{run} x{row['devices']}, {row['program']}",
        ran=row["ran"] == "true",
        verdict=estimate_summary_pb2.FitVerdict.Name(found.fit.verdict).removeprefix("FIT_VERDICT_"),
        probability=round(found.fit.probability, 2),
        peak=round(found.memory.device_bytes.expected / GIB, 1),
    )


def main() -> None:
    """Ask about all rows and print, or write, what is right and what is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = answers()
    wrong = [one for one in found if not one.right]
    for one in wrong:
        print(f"{one.source}: {one.run}: {'ran' if one.ran else 'did not'}, but {one.verdict} ({one.peak} GiB)")
    print(f"{len(found) - len(wrong)} of {len(found)} right")
    if options.json:
        rows = [
            {"run": one.run, "ran": one.ran, "verdict": one.verdict, "probability": one.probability, "gib": one.peak}
            for one in found
        ]
        body = {"rows": len(found), "right": len(found) - len(wrong), "answers": rows}
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
