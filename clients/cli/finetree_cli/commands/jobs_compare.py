# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs compare`: jobs side by side, as text, JSON, Markdown and one SVG."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings

AXES = ("step", "epoch", "tokens")


@click.command(
    "compare",
    cls=Command,
    examples=(
        "finetree jobs compare JOB JOB",
        "finetree jobs compare JOB JOB JOB --axis tokens --svg runs.svg",
        "finetree jobs compare JOB JOB --markdown >> pull-request.md",
        "finetree jobs compare JOB JOB --json | jq '.best'",
    ),
)
@click.argument("job_names", metavar="JOB JOB...", nargs=-1, required=True)
@click.option("--axis", type=click.Choice(AXES), default="step", show_default=True, help="What curves are aligned by.")
@click.option(
    "--metric", "metrics", multiple=True, metavar="METRIC", help="A curve; may be repeated. [default: loss, eval_loss]"
)
@click.option("--points", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most points of a curve.")
@click.option(
    "--last-steps",
    type=click.IntRange(1, 10000),
    default=20,
    show_default=True,
    help="Newest steps whose mean training loss is shown.",
)
@click.option(
    "--samples", type=click.IntRange(1, 100), default=5, show_default=True, help="Most prompts whose answers are shown."
)
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw curves and metrics into this file too.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@pass_settings
def compare(
    settings: Settings,
    /,
    *,
    job_names: tuple[str, ...],
    axis: str,
    metrics: tuple[str, ...],
    points: int,
    last_steps: int,
    samples: int,
    svg: Path | None,
    markdown: bool,
) -> None:
    """Lay 2 to 16 jobs side by side: settings that differ, curves, metrics, time, memory, cost and answers.

    A best job is named only where it is told apart from each other one on the same held-out rows. A setting that nobody
    asked for has the rule or default that chose it behind it.
    """
    from finetree_cli.errors import BadInput
    from finetree_cli.render.chart.comparison import comparison_chart
    from finetree_cli.render.chart.svg import svg as drawn
    from finetree_cli.render.comparison import as_markdown, conclusion, label, show_comparison

    if not 2 <= len(job_names) <= 16:
        raise BadInput("from 2 to 16 jobs can be compared", remedy="name at least two jobs, and at most sixteen")
    with settings.client() as client:
        found = client.compare_jobs(
            job_names,
            metrics=metrics,
            axis=axis.upper(),  # type: ignore[arg-type]  # one of AXES
            points=points,
            last_steps=last_steps,
            samples=samples,
        )
    if svg is not None:
        labels = [label(found, index) for index in range(len(found.jobs))]
        chart = comparison_chart(found, labels=labels, conclusion=conclusion(found))
        try:
            svg.write_text(drawn(chart), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{svg}: {error.strerror or error}", remedy="name a file that can be written") from error
    if settings.out.json:
        settings.out.message(found)
    elif markdown:
        settings.out.text(as_markdown(found).removesuffix("\n"))
    else:
        show_comparison(settings.out, found)
        if svg is not None:
            settings.out.say(f"drawn: {svg}")
