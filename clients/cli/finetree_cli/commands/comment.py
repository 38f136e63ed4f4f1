# SPDX-License-Identifier: Apache-2.0
"""`finetree comment`: what a check found, as one comment of a pull request."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Whole

if TYPE_CHECKING:
    from finetree_cli.backends.forge.comments import Thread

TOKENS = {"github": "GITHUB_TOKEN", "gitlab": "GITLAB_TOKEN"}
"""Environment variable with the token by site."""


@click.command(
    cls=Command,
    examples=(
        "finetree comment github --from plan.json",
        "finetree comment gitlab --from plan.json --name nightly",
        "finetree comment github --from plan.json --number 12",
    ),
)
@click.argument("site", type=click.Choice(tuple(TOKENS)))
@click.option("--from", "plan_file", type=click.Path(path_type=Path), required=True, metavar="FILE", help="plan.json.")
@click.option("--number", type=Whole(1), metavar="N", help="Number of the pull request. [default: the pipeline's]")
@click.option("--name", default="gate", show_default=True, metavar="NAME", help="Parts several comments of a change.")
@pass_settings
def comment(settings: Settings, /, *, site: str, plan_file: Path, number: int | None, name: str) -> None:
    """Put what a check found into one comment of a pull request, or edit the one that is there.

    Needs the token in GITHUB_TOKEN or GITLAB_TOKEN, and FILE alone: no job file is read, so that it may run where a
    fork's code must not. The verdict stays the check's: this exits with 0 if it commented, and also where there is no
    token or no pull request, which it says; with 5 if the site refuses.
    """
    from finetree_cli.backends.forge import comments
    from finetree_cli.backends.forge.http import Refused
    from finetree_cli.errors import BadInput
    from finetree_cli.gate.report import read_report
    from finetree_cli.render.gate import markdown

    if not name.isascii() or not name.replace("-", "").isalnum():
        raise BadInput("--name takes letters, digits and dashes", reason="USAGE")
    report = read_report(plan_file)
    try:
        thread = _thread(site, number)
        if isinstance(thread, str):
            done = f"no comment: {thread}"
        else:
            room = thread.max_length - len(comments.MARKER) - len(name) - 1
            text = markdown.render(report, max_length=room)
            done = f"comment {comments.put(thread, text, name=name)}"
    except Refused as error:
        if error.status in (401, 403, 404):
            error.remedy = REMEDIES[site]
        raise
    if settings.out.json:
        settings.out.document({"result": done})
    else:
        settings.out.text(done)


REMEDIES = {
    "github": "the token may not write comments: give the job `permissions: {pull-requests: write}`",
    "gitlab": "the token may not write notes: GITLAB_TOKEN must be a project's access token with the scope api",
}
"""What to do where a site does not let the token write."""


def _thread(site: str, number: int | None) -> "Thread | str":
    """Find the comments of the pull request; a text says why there are none."""
    if site == "github":
        from finetree_cli.backends.forge import github

        api = github.site(os.environ)
        return github.pull_request(api, os.environ, number) if api is not None else _no_token(site)
    from finetree_cli.backends.forge import gitlab

    api = gitlab.site(os.environ)
    return gitlab.merge_request(api, os.environ, number) if api is not None else _no_token(site)


def _no_token(site: str) -> str:
    return f"there is no token in {TOKENS[site]}"
