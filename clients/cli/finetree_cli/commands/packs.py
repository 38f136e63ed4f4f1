# SPDX-License-Identifier: Apache-2.0
"""`finetree packs`: the rule packs of the recommender."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from finetree_cli.errors import BadInput, CliError
from finetree_cli.options.command import Group, Settings, pass_settings


@click.group(cls=Group, examples=("finetree packs list", "finetree packs check house.yaml"))
def packs() -> None:
    """List, show and check the recommender's rule packs."""


@packs.command("list", examples=("finetree packs list", "finetree packs list --json | jq -r '.rule_packs[].id'"))
@pass_settings
def list_packs(settings: Settings) -> None:
    """List the rule packs: the built-in ones, and those of the recommender's folder with the errors in them."""
    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.rule_packs import show_list

    with settings.client() as client, open_recommender(settings, client, "ListRulePacks") as recommender:
        found = list(recommender.list_rule_packs())
    if settings.out.json:
        settings.out.document({"rule_packs": [as_dict(item) for item in found]})
    else:
        show_list(settings.out, found)


@packs.command(
    "show",
    examples=(
        "finetree packs show evidence-1",
        "finetree packs show playbook-1 --yaml",
        "finetree packs show --json | jq '.questions[].text'",
    ),
)
@click.argument("name", default="")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the pack's file.")
@pass_settings
def show_pack(settings: Settings, name: str, *, as_yaml: bool) -> None:
    """Show a rule pack: questions, rules with their sources, and how contradictions were resolved."""
    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.render.recommender.rule_packs import show

    with settings.client() as client, open_recommender(settings, client, "GetRulePack") as recommender:
        found = recommender.get_rule_pack(name)
    if settings.out.json:
        settings.out.message(found)
    elif as_yaml:
        settings.out.text(found.yaml.rstrip("\n"))
    else:
        show(settings.out, found)


@packs.command("check", examples=("finetree packs check house.yaml", "finetree packs check house.yaml --json"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--beside",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with further packs that FILE may extend.",
)
@pass_settings
def check(settings: Settings, file: Path, beside: Path | None) -> None:
    """Check a rule pack's file without a server; exit code 2 names the line and the rule with a mistake."""
    found = _check(file, beside)
    if settings.out.json:
        settings.out.document(found)
    else:
        over = f", extends {found['extends']}" if found.get("extends") else ""
        settings.out.text(f"{file}: {found['id']}{over}, sha256 {found['sha256']}: valid")


def _check(file: Path, beside: Path | None) -> dict[str, Any]:
    """Run the recommender's own check and return its summary of the pack."""
    from finetree_cli.backends.local_process import require_installed

    require_installed("recommender")
    command = [sys.executable, "-P", "-m", "finetree_recommender", "--rule-pack-check", str(file)]
    if beside is not None:
        command += ["--rule-pack-dir", str(beside)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        found: dict[str, Any] = json.loads(ended.stdout)
        return found
    reason, _, text = (ended.stderr.strip().splitlines() or [""])[-1].partition(": ")
    if ended.returncode == BadInput.exit_code:
        raise BadInput(text, reason=reason, remedy="correct the named rule")
    raise CliError(f"the recommender process ended with exit code {ended.returncode}: {text or reason}")
