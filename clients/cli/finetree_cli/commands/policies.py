# SPDX-License-Identifier: Apache-2.0
"""`finetree policies`: the rule packs that recommendations are decided by."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from finetree_cli.errors import BadInput, CliError, NotAvailable
from finetree_cli.options.command import Group, Settings, pass_settings


@click.group(cls=Group, examples=("finetree policies list", "finetree policies check house.yaml"))
def policies() -> None:
    """See and check the rule packs that recommendations are decided by."""


@policies.command("list", examples=("finetree policies list", "finetree policies list --json | jq -r '.policies[].id'"))
@pass_settings
def list_policies(settings: Settings) -> None:
    """List the packs: those that come with the recommender, and those of its folder with what is wrong with them."""
    from finetree_cli.backends.recommender import advisor
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.policies import show_list

    with settings.client() as client, advisor(settings, client, local=False, method="ListPolicies") as asked:
        found = asked.policies()
    if settings.out.json:
        settings.out.document({"policies": [as_dict(item) for item in found]})
    else:
        show_list(settings.out, found)


@policies.command(
    "show",
    examples=(
        "finetree policies show evidence-1",
        "finetree policies show playbook-1 --yaml",
        "finetree policies show --json | jq '.questions[].text'",
    ),
)
@click.argument("name", default="")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the file itself.")
@pass_settings
def show_policy(settings: Settings, name: str, *, as_yaml: bool) -> None:
    """Show a pack: questions, tree, rules with their sources, and how contradictions were resolved."""
    from finetree_cli.backends.recommender import advisor
    from finetree_cli.render.recommender.policies import show

    with settings.client() as client, advisor(settings, client, local=False, method="GetPolicy") as asked:
        found = asked.policy(name)
    if settings.out.json:
        settings.out.message(found)
    elif as_yaml:
        settings.out.text(found.yaml.rstrip("\n"))
    else:
        show(settings.out, found)


@policies.command("check", examples=("finetree policies check house.yaml", "finetree policies check house.yaml --json"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--beside",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of packs that it may extend, beside the built-in ones.",
)
@pass_settings
def check(settings: Settings, file: Path, beside: Path | None) -> None:
    """Load and check a pack file without a server: exit code 2 names the rule that is wrong."""
    found = _checked(file, beside)
    if settings.out.json:
        settings.out.document(found)
    else:
        over = f", over {found['extends']}" if found.get("extends") else ""
        settings.out.text(f"{file}: {found['id']}{over}, sha256 {found['sha256']}: no fault found")


def _checked(file: Path, beside: Path | None) -> dict[str, Any]:
    """The pack in short, as the recommender's own program says it."""
    from finetree_cli.backends.local_process import installed

    if not installed("recommender"):
        raise NotAvailable(
            "the recommender is not installed here",
            remedy="pip install 'finetree-cli[local]'",
            reason="LOCAL_ENGINE_NOT_INSTALLED",
        )
    command = [sys.executable, "-P", "-m", "finetree_recommender", "--policy-check", str(file)]
    if beside is not None:
        command += ["--policy-dir", str(beside)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        found: dict[str, Any] = json.loads(ended.stdout)
        return found
    reason, _, text = (ended.stderr.strip().splitlines() or [""])[-1].partition(": ")
    if ended.returncode == BadInput.exit_code:
        raise BadInput(text, reason=reason, remedy="mend the rule that is named")
    raise CliError(f"the local recommender ended with exit code {ended.returncode}: {text or reason}")
