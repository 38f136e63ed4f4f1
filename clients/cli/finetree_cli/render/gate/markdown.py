# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown of GitHub and GitLab: a table of the jobs, then what each one needs."""

from collections.abc import Iterable, Sequence

from finetree_cli.gate.report import Patch, PlanEntry, Report
from finetree_cli.render.gate import wording
from finetree_cli.render.gate.escaping import code, prose

CUT = "_The rest is in plan.json: this text may have no more than {:,} characters._"


def render(report: Report, *, max_length: int | None = None) -> str:
    """Format the report; with `max_length`, what does not fit is left out from the end, and it says so."""
    blocks = [_heading(report), *_jobs(report), *_actuals(report), *_details(report), *_folded(report)]
    if max_length is not None and len(_joined(blocks)) > max_length:
        note = CUT.format(max_length)
        blocks = [*_first(blocks, max_length - len(note) - 3), note]
    return _joined(blocks)


def _joined(blocks: Sequence[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def _first(blocks: Sequence[str], room: int) -> list[str]:
    """Return the first blocks that have room; a table is cut after a row, anything else is whole or left out."""
    kept = []
    for block in blocks:
        part = block if len(block) + 2 <= room else _first_rows(block, room)
        if part:
            kept.append(part)
        if part != block:
            break
        room -= len(block) + 2
    return kept


def _first_rows(block: str, room: int) -> str:
    rows = block.splitlines() if block.startswith("|") else []
    while rows and sum(len(row) + 1 for row in rows) + 2 > room:
        rows.pop()
    return "\n".join(rows) if len(rows) > 2 else ""


def _heading(report: Report) -> str:
    lines = [f"### finetree: {wording.summary(report)}"]
    if wording.is_compared(report):
        against = f" against {code(report.base_ref)}" if report.base_ref else ""
        counts, *sums = wording.total_lines(report)
        lines += ["", f"- {counts}{against}", *(f"- {_money(line)}" for line in sums)]
    return "\n".join(lines)


def _jobs(report: Report) -> list[str]:
    """Return the table of the jobs; those that a change leaves as they are, and that pass, are folded."""
    listed = wording.in_order(report.plans)
    quiet = [entry for entry in listed if entry.change == "unchanged" and entry.verdict == "PASS"]
    shown = [entry for entry in listed if entry not in quiet]
    tables = [_table(shown)] if shown else []
    if quiet:
        tables.append(_fold(f"{len(quiet)} unchanged", _table(quiet)))
    return tables


def _table(entries: Sequence[PlanEntry]) -> str:
    rows = [["Job", "Verdict", "Memory", "Time", "Cost"]]
    for entry in entries:
        name = "<br>".join(part for part in (code(entry.file), wording.change_of(entry, code)) if part)
        cells = [prose(entry.error.message)] * 3 if entry.error is not None else _figures(entry)
        if entry.error is not None:
            cells[1:] = ["", ""]
        rows.append([name, wording.verdict(entry), *cells])
    return _rows(rows)


def _figures(entry: PlanEntry) -> list[str]:
    cells = []
    for line in wording.lines(entry):
        change = line.change if entry.change == "changed" else ""
        value = f"was {line.value}" if entry.change == "removed" else line.value
        cells.append("<br>".join(_money(part) for part in (value, change) if part))
    return cells


def _money(figure: str) -> str:
    """Keep GitHub from reading what stands between two dollars as a formula."""
    return figure.replace("$", "&#36;")


def _rows(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def _actuals(report: Report) -> list[str]:
    """Return the table of estimate against actual, of the plans that have run."""
    ran = [entry for entry in report.plans if entry.actual is not None]
    if not ran:
        return []
    rows = [["Finished run", "State", "Memory", "Time", "Cost"]]
    for entry in ran:
        cells = (f"{_money(line.actual)}<br>estimated {_money(line.estimate)}" for line in wording.actual_lines(entry))
        rows.append([code(entry.file), prose(entry.actual.state if entry.actual else ""), *cells])
    return [_rows(rows)]


def _details(report: Report) -> list[str]:
    """Return each job's findings with what would pass, and what to do about a file that cannot be read."""
    blocks = []
    for entry in wording.in_order(report.plans):
        found = wording.findings(entry)
        if not found and not (entry.error is not None and (entry.error.problems or entry.error.remedy)):
            continue
        blocks.append(f"#### {code(entry.file)}")
        if entry.error is not None:
            lines = [f"line {each.location.line}: {prose(wording.problem(each))}" for each in entry.error.problems]
            blocks.append(_list([*lines, prose(entry.error.remedy)] if entry.error.remedy else lines))
        rows = [[code(check.rule_id), check.verdict, prose(wording.explained(check))] for check in found]
        if rows:
            blocks.append(_rows([["Limit", "Verdict", "Finding"], *rows]))
        if entry.remedies:
            blocks.append("Every limit would pass with one of:")
            blocks.append(_list(f"{prose(each.summary)} ({_patches(each.patches)})" for each in entry.remedies))
        if entry.no_remedy:
            blocks.append(f"No remedy: {prose(entry.no_remedy)}")
    return blocks


def _patches(patches: Iterable[Patch]) -> str:
    return ", ".join(code(wording.setting(patch)) for patch in patches)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _folded(report: Report) -> list[str]:
    """Return what a reviewer seldom needs: assumptions, digests and versions."""
    lines = [f"- Assumed for {_files(files, report)}: {prose('; '.join(texts))}" for files, texts in _assumed(report)]
    lines += [f"- Data of {code(entry.file)}: {prose(rows)}" for entry in report.plans if (rows := wording.data(entry))]
    lines += [f"- Plan of {code(entry.file)}: {code(entry.plan_digest)}" for entry in report.plans if entry.plan_digest]
    versions = wording.revisions(report.revisions)
    lines += [f"- Computed with {prose(versions)}"] if versions else []
    return [_fold("Assumptions and versions", "\n".join(lines))] if lines else []


def _assumed(report: Report) -> list[tuple[tuple[str, ...], list[str]]]:
    """Group what was assumed by the job files that it was assumed for: each assumption is told once."""
    files: dict[str, list[str]] = {}
    for entry in report.plans:
        for text in dict.fromkeys(entry.assumptions):
            files.setdefault(text, []).append(code(entry.file))
    groups: dict[tuple[str, ...], list[str]] = {}
    for text, names in files.items():
        groups.setdefault(tuple(names), []).append(text)
    return list(groups.items())


def _files(files: Sequence[str], report: Report) -> str:
    """Name a few files, and count many."""
    if len(files) == sum(entry.plan_digest is not None for entry in report.plans):
        return "each job" if len(files) > 1 else files[0]
    return ", ".join(files) if len(files) <= 3 else f"{len(files)} jobs"


def _fold(title: str, text: str) -> str:
    """Fold text under a title of ours; the blank lines make the sites read the text as Markdown."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
