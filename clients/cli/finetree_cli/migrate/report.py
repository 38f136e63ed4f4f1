# SPDX-License-Identifier: Apache-2.0
"""The result of a migration, as text."""

from finetree_cli.migrate.comparison import Comparison
from finetree_cli.migrate.plan import Planned
from finetree_cli.output import Output, short_name

SHOWN_ANSWERS = 5
"""Questions whose answers are printed; the report has all of them."""
LONGEST = 200
"""Characters of an answer that are printed."""


def show(out: Output, planned: list[Planned]) -> None:
    """Print what became of each job."""
    for found in planned:
        out.heading(f"{found.job.id} ({found.job.model or 'no model named'})")
        if found.file is not None:
            out.text(f"  job file  {found.file}")
            out.text(f"  model     {found.model.name}: {found.model.rule}")
            out.text(f"  method    {found.method}")
        if found.name:
            out.text(f"  job       {found.name}")
        for note in found.notes:
            out.bullet(note)
        for one in found.findings:
            if one.count:
                out.bullet(one.message or f"{one.name}: {one.count} of {one.rows} rows of the {one.split} split")
        if found.refusal:
            out.text(f"  refused: {found.refusal} [{found.reason}]")
        if found.comparison is not None:
            _show_comparison(out, found.comparison)
        out.text()


def next_steps(planned: list[Planned]) -> list[str]:
    """Say what to do next, one line each."""
    ready = [found for found in planned if found.file is not None]
    trained = [found for found in ready if found.name and not found.refusal]
    steps = [f"finetree train {found.file} --watch" for found in ready if not found.name][:3]
    steps += [f"finetree jobs download {short_name(found.name)} --output ./adapter" for found in trained][:3]
    if any(found.records and found.comparison is None for found in ready):
        steps.append("--train asks the recorded questions again, and shows old answers beside new ones")
    return steps


def _show_comparison(out: Output, comparison: Comparison) -> None:
    asked = len(comparison.answers)
    if not asked:
        out.text("  no recorded question was answered again: the job reported no answers")
        return
    same = sum(each.agrees for each in comparison.answers)
    out.text(f"  answers   {same} of {asked} are those of the OpenAI model, word for word")
    right = comparison.right()
    if right is not None:
        out.text(
            f"  right     of {right['questions']} with a known answer: OpenAI {right['openai']}, "
            f"base model {right['before']}, trained {right['after']}"
        )
    rows = [
        [_short(each.prompt), _short(each.openai), _short(each.before), _short(each.after)]
        for each in comparison.answers[:SHOWN_ANSWERS]
    ]
    out.table(["Question", "OpenAI", "Base model", "Trained here"], rows, wrap=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
