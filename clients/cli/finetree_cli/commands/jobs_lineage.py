# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs lineage`: what a job was made of, back to the first of its runs."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    "lineage",
    cls=Command,
    examples=("finetree jobs lineage JOB", "finetree jobs lineage JOB --json | jq '.parents[].made_by.lineage'"),
)
@click.argument("job")
@pass_settings
def lineage(settings: Settings, /, *, job: str) -> None:
    """Show what a job was made of: data, base, plan and weights by the hash of their content, programs, settings.

    Weights are followed to the jobs that made them, and from there on. With --json, one document: a job with its
    `spec`, its `lineage`, and its `parents`, each with the job that it was `made_by`. Each artifact's manifest
    (finetree.json) has the part of its own job.
    """
    from finetree_cli.render.lineage import show_lineage, tree_document

    with settings.client() as client:
        handle = client.job(job)
        found = handle.refresh()
        older = {each.name: each for each in handle.ancestors()}
    if settings.out.json:
        settings.out.document(tree_document(found, older))
    else:
        show_lineage(settings.out, found, older)
