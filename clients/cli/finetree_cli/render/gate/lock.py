# SPDX-License-Identifier: Apache-2.0
"""What an upgrade of the lock changes, and what it does to every job."""

from finetree_cli.gate.document import JsonObject, to_json
from finetree_cli.gate.lock import Drift, Lock, LockedJob
from finetree_cli.gate.report import Cost, Figures, Range
from finetree_cli.output import Output
from finetree_cli.render import units


def show(out: Output, before: Lock | None, after: Lock, *, found: list[Drift]) -> None:
    """Print each component that differs, and cost, time and memory of every job before and after."""
    for drift in found:
        out.text(str(drift))
    for name in ("engine", "catalog", "price_book", "calibration"):
        component = getattr(after, name)
        if before is None and component is not None:
            out.text(f"{name} {component.id} ({component.sha256[:12]})")
    if before is None:
        for pack in after.packs:
            out.text(f"pack {pack.id} ({pack.sha256[:12]})")
    for line in effects(before, after):
        out.text(line)


def effects(before: Lock | None, after: Lock) -> list[str]:
    """Format what each job takes, before and after, one line for each."""
    known = {job.file: job for job in before.jobs} if before is not None else {}
    lines = [f"{job.file}: {_effect(known.get(job.file), job)}" for job in after.jobs]
    return lines + [f"{gone}: no longer there" for gone in sorted(known.keys() - {job.file for job in after.jobs})]


def document(file: str, before: Lock | None, after: Lock, *, found: list[Drift], written: bool) -> JsonObject:
    """Convert the same to JSON."""
    known = {job.file: job for job in before.jobs} if before is not None else {}
    return {
        "file": file,
        "written": written,
        "changes": [to_json(drift) for drift in found],
        "jobs": [
            {
                "file": job.file,
                "file_changed": job.file in known and known[job.file].file_sha256 != job.file_sha256,
                "before": to_json(known[job.file].figures) if job.file in known else None,
                "after": to_json(job.figures),
            }
            for job in after.jobs
        ],
        "lock": to_json(after),
    }


def _effect(before: LockedJob | None, after: LockedJob) -> str:
    figures = _figures(after.figures)
    if before is None:
        return f"new, {', '.join(figures) or 'unknown'}"
    former = _figures(before.figures)
    if former == figures:
        return f"unchanged, {', '.join(figures)}"
    edited = "" if before.file_sha256 == after.file_sha256 else " (the job file has changed too)"
    pairs = zip(_all(before.figures), _all(after.figures), strict=True)
    return ", ".join(_pair(*pair) for pair in pairs if pair != ("", "")) + edited


def _pair(before: str, after: str) -> str:
    return after if before == after else f"{before or 'unknown'} → {after or 'unknown'}"


def _figures(figures: Figures) -> list[str]:
    return [text for text in _all(figures) if text]


def _all(figures: Figures) -> tuple[str, str, str]:
    """Format the expected cost, time and memory; "" for what is unknown."""
    cost, time, memory = figures.cost, figures.duration_seconds, figures.memory_bytes
    return (
        units.amount_of(cost.expected, cost.currency_code) if isinstance(cost, Cost) else "",
        units.duration(time.expected) if isinstance(time, Range) else "",
        units.size(memory.expected) if isinstance(memory, Range) else "",
    )
