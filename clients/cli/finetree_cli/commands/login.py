# SPDX-License-Identifier: Apache-2.0
"""`finetree login`: check a token against the services, and keep it for later commands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.backends.private_files import write_private
from finetree_cli.errors import BadInput
from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.types.v1 import server_pb2


@click.command(
    cls=Command,
    examples=(
        "finetree login --address https://finetree.example.com:443",
        "finetree login --trainer 127.0.0.1:50053 --token-stdin",
    ),
)
@click.option("--token-stdin", is_flag=True, help="Read the token from stdin; else it is asked for, unseen.")
@pass_settings
def login(settings: Settings, token_stdin: bool) -> None:
    """Keep a token for this user.

    The trainer is asked who the token stands for, and nothing is kept of one that it refuses. The token goes into a
    file of mode 0600 beside the configuration file; the profile (--profile, "default" unless named) gets `token_file`,
    the given addresses, and the token's project unless --project names another.
    """
    from finetree_cli.backends.profiles import change, require_path

    token = _token(from_stdin=token_stdin)
    caller = _caller(settings, token)
    name = settings.profile or str(settings.resolved().profile.value) or "default"
    project = settings.project or caller.project
    folder = require_path().parent
    file = _keep(folder, name, token)
    given = {f"{each}_address": getattr(settings, each) for each in ("recommender", "estimator", "trainer")}
    values = {key: value for key, value in {"address": settings.address, **given}.items() if value}
    change(name, {**values, "project": project, "token_file": str(file)})
    if settings.out.json:
        settings.out.document({"profile": name, "principal": caller.principal, "project": project})
        return
    settings.out.say(f"logged in as {caller.principal}, project {project}; kept in profile {name}")


def _token(*, from_stdin: bool) -> str:
    if from_stdin:
        text = sys.stdin.readline().strip()
        if not text:
            raise BadInput("--token-stdin reads the token from stdin, which is empty")
        return text
    if not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask for the token on", remedy="give it on stdin with --token-stdin")
    typed: str = click.prompt("token", hide_input=True, err=True)
    return typed.strip()


def _caller(settings: Settings, token: str) -> "server_pb2.Caller":
    """Ask the trainer who a token stands for. Raises FinetreeError."""
    from finetree import Client

    client = Client(
        settings.address,
        recommender_address=settings.recommender,
        estimator_address=settings.estimator,
        trainer_address=settings.trainer,
        profile=settings.profile,
        token=token,
    )
    with client:
        return client.server_info("trainer").caller


def _keep(folder: Path, profile: str, token: str) -> Path:
    """Write the token's file and return it. Raises BadInput."""
    path = folder / f"token-{profile}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, f"{token}\n")
    except OSError as error:
        remedy = "XDG_CONFIG_HOME names another folder for it"
        raise BadInput(f"the token cannot be kept in {folder}: {error.strerror}", remedy=remedy) from error
    return path
