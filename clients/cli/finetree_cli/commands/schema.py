# SPDX-License-Identifier: Apache-2.0
"""`finetree schema`: JSON Schemas of the files that people and pipelines write and read."""

import json

import click

from finetree_cli.options.command import Command, Settings, pass_settings

FILES = ("job", "policy", "plan")


@click.command(
    cls=Command,
    examples=(
        "finetree schema job | tee job.schema.json",
        "finetree schema policy | tee policy.schema.json",
        "finetree schema plan | jq '.\"$defs\" | keys'",
    ),
)
@click.argument("file", type=click.Choice(FILES))
@pass_settings
def schema(settings: Settings, /, file: str) -> None:
    """Print the JSON Schema (draft 2020-12) of job files, of policy files, or of plan.json.

    Editors check and complete a YAML file by it: write `# yaml-language-server: $schema=job.schema.json` into its first
    line, or map the schema to the files in the editor's settings.
    """
    from finetree_cli.gate.report import plan_schema
    from finetree_cli.jobfile.schema import job_schema

    if file == "plan":
        found = plan_schema()
    elif file == "job":
        found = job_schema()
    else:
        from finetree_cli.gate.policy.schema import policy_schema

        found = policy_schema(job_schema())
    settings.out.text(json.dumps(found, indent=2, ensure_ascii=False))
