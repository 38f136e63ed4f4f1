# SPDX-License-Identifier: Apache-2.0
"""How far the estimator is from published measurements: memory and speed, by source, method and device count.

    python benchmarks/estimator/accuracy.py --fit FILE.csv --validation FILE.csv [--json OUT] [--rows]
    python benchmarks/estimator/accuracy.py --validation MY_RUNS.csv

Constants are fitted on the first file and never on the second, which may be any table with the columns that rows.py
reads; a source that nobody has described is read by its words (row_sources.py). Scored is `expected` of the quantity
that a row measured (allocated, reserved or device peak). A row is under-predicted when it measured more than the upper
end of that quantity, which is what the fit verdict goes by. Rows above 92 % of their card are left out, as are rows of
methods that the suite does not have: near a full card the allocator frees its cache and tries again, and peaks say
little.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import DomainError
from made_runs import MadeRuns
from row_requests import request
from rows import MeasuredRow, measured_rows

FULL_CARD = 0.92


@dataclass(frozen=True, slots=True)
class Scored:
    """One number of one row: measured, and the interval that was predicted. Bytes, or tokens per second."""

    kind: str
    group: str
    label: str
    measured: float
    low: float
    expected: float
    high: float

    @property
    def error(self) -> float:
        """Signed relative error of the expected value."""
        return self.expected / self.measured - 1


def scores(rows: Iterable[MeasuredRow], servicer: MadeRuns) -> Iterator[Scored]:
    """What can be scored of the rows."""
    for row in rows:
        if not row.answerable or row.outcome != "fit":
            continue
        asked = request(row)
        try:
            found = servicer.estimate(asked)
        except DomainError as error:
            print(f"refused: {row.published_model} {row.published_method}: {error}")
            continue
        yield from _memory(row, found)
        yield from _speed(row, found)


def _memory(row: MeasuredRow, found: estimate_pb2.Estimate) -> Iterator[Scored]:
    usable = accelerator(row.accelerator).usable_bytes
    if row.peak_bytes is None or row.saturated or row.peak_bytes > FULL_CARD * usable:
        return
    interval = getattr(found.memory, f"{row.quantity}_bytes")
    yield Scored("memory", _group(row), _label(row), row.peak_bytes, interval.low, interval.expected, interval.high)


def _speed(row: MeasuredRow, found: estimate_pb2.Estimate) -> Iterator[Scored]:
    rate = found.time.tokens_per_second
    if rate.expected <= 0:
        return
    if row.tokens_per_second is not None and row.total_tokens == 0:
        measured = row.tokens_per_second
    elif row.samples_per_second is not None and found.processed_tokens:
        # Rows a second, in the tokens that the estimate counts for a row.
        per_row = found.processed_tokens / max(1, _rows_seen(row))
        measured = row.samples_per_second * per_row
    else:
        return
    yield Scored("speed", _group(row), _label(row), measured, rate.low, rate.expected, rate.high)


def _rows_seen(row: MeasuredRow) -> float:
    batch = row.micro_batch * row.accumulation * row.devices
    examples = row.examples or 1000 * batch
    return -(-examples // batch) * batch


def _group(row: MeasuredRow) -> str:
    devices = "1 device" if row.devices == 1 else "several devices"
    return f"{row.family} · {row.method}{'' if row.quant == 'none' else ' ' + row.quant} · {devices}"


def _label(row: MeasuredRow) -> str:
    return (
        f"{row.published_model} {row.published_method} r{row.rank} {','.join(row.targets)} v{row.virtual_tokens} "
        f"{row.micro_batch}x{row.sequence_length} {row.accelerator} x{row.devices} {row.quant}"
    )


def summary(found: list[Scored]) -> dict[str, float]:
    """Errors as shares: mean and median of their size, bias, share under-predicted and inside, mean width."""
    errors = [one.error for one in found]
    return {
        "rows": len(found),
        "mean_absolute_error": round(statistics.mean(map(abs, errors)), 4),
        "median_absolute_error": round(statistics.median(map(abs, errors)), 4),
        "bias": round(statistics.mean(errors), 4),
        "worst": round(max(abs(error) for error in errors), 4),
        "above_high": round(sum(one.measured > one.high for one in found) / len(found), 4),
        "inside": round(sum(one.low <= one.measured <= one.high for one in found) / len(found), 4),
        "high_over_expected": round(statistics.mean(one.high / one.expected for one in found), 3),
        "widest_high_over_expected": round(max(one.high / one.expected for one in found), 3),
    }


def table(found: list[Scored]) -> dict[str, dict[str, float]]:
    """Summaries by kind and group, and of all rows of a kind."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in found:
        groups[f"{one.kind} · all"].append(one)
        groups[f"{one.kind} · {one.group}"].append(one)
    return {name: summary(members) for name, members in sorted(groups.items())}


def print_table(title: str, found: dict[str, dict[str, float]]) -> None:
    """Print summaries, a line each: shares in percent, and the mean of the upper end over the expected value."""
    print(f"\n{title}")
    print(f"{'':52}{'rows':>5}{'mean':>8}{'median':>8}{'bias':>8}{'worst':>8}{'above':>7}{'inside':>8}{'high/exp':>9}")
    for name, row in found.items():
        shares = ("mean_absolute_error", "median_absolute_error", "bias", "worst", "above_high", "inside")
        widths = (8, 8, 8, 8, 7, 8)
        cells = "".join(f"{row[key]:>{width}.1%}" for key, width in zip(shares, widths, strict=True))
        print(f"{name:52}{row['rows']:>5}{cells}{row['high_over_expected']:>9.2f}")


def main() -> None:
    """Score the files and print, or write, the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, help="rows that constants were fitted on")
    parser.add_argument("--validation", type=Path, help="rows of any other sources")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", action="store_true", help="print every row, worst last")
    options = parser.parse_args()
    if options.fit is None and options.validation is None:
        parser.error("give --fit, --validation or both")
    servicer = MadeRuns(Knowledge(price_book.packaged()))
    results = {}
    for title, path in (("fit", options.fit), ("validation", options.validation)):
        if path is None:
            continue
        found = list(scores(measured_rows(path), servicer))
        results[title] = table(found)
        print_table(title, results[title])
        if options.rows:
            for one in sorted(found, key=lambda one: (one.kind, one.group, abs(one.error))):
                print(f"{one.error:+8.1%} {one.kind} {one.group}: {one.label}  {shown(one)}")
    if options.json:
        body = {"constants": "fitted on `fit` only", **results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def shown(one: Scored) -> str:
    """The numbers of a scored row, memory in GiB."""
    scale = 2**30 if one.kind == "memory" else 1
    numbers = {key: round(value / scale, 2) for key, value in asdict(one).items() if isinstance(value, float | int)}
    return ", ".join(f"{key} {value}" for key, value in numbers.items())


if __name__ == "__main__":
    main()
