# SPDX-License-Identifier: Apache-2.0
"""`finetree profile`: named settings of clients, such as the addresses and the token of one installation."""

import sys

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.command import Group, Settings, pass_settings


@click.group(
    cls=Group,
    examples=(
        "finetree profile set prod address=https://finetree.example.com:443 token_file=~/.finetree-token",
        "finetree profile use prod",
        "finetree profile list",
    ),
)
def profile() -> None:
    """List, choose and change profiles of the configuration file, which the SDK reads too.

    The settings are those of `finetree profile set --help`. FINETREE_PROFILE or --profile names the profile of one
    call.
    """


@profile.command("list", examples=("finetree profile list", "finetree profile list --json | jq -r '.profiles[].name'"))
@pass_settings
def list_profiles(settings: Settings) -> None:
    """List the profiles; the one that is used now is marked."""
    from finetree_cli.backends.profiles import list_profiles as read_profiles
    from finetree_cli.backends.profiles import used_profile

    found = read_profiles()
    used = used_profile(settings)
    if settings.out.json:
        listed = [
            {"name": each.name, "used": each.name == used, "settings": each.settings, "problem": each.problem}
            for each in found
        ]
        settings.out.document({"profiles": listed})
        return
    if not found:
        settings.out.say("there is no profile; `finetree profile set NAME address=HOST:PORT` makes one")
        return
    rows = [
        (
            each.name,
            "*" if each.name == used else "",
            ", ".join(f"{k}={v}" for k, v in each.settings.items()),
            each.problem,
        )
        for each in found
    ]
    columns = ["Profile", "Used", "Settings", "Problem"]
    shown = len(columns) if any(row[3] for row in rows) else 3
    settings.out.table(columns[:shown], [row[:shown] for row in rows])


@profile.command("use", examples=("finetree profile use prod",))
@click.argument("name")
@pass_settings
def use_profile(settings: Settings, name: str) -> None:
    """Make a profile the one that is used where none is named."""
    from finetree_cli.backends.profiles import choose

    file = choose(name)
    if settings.out.json:
        settings.out.document({"profile": name, "path": str(file)})
    else:
        settings.out.say(f"{name} is used from now on, as {file} says")


@profile.command(
    "set",
    examples=(
        "finetree profile set prod address=https://finetree.example.com:443 project=search",
        "finetree profile set prod token_command='vault read -field=token secret/finetree'",
        "finetree profile set prod token=-",
        "finetree profile set prod timeout=",
    ),
)
@click.argument("name")
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@pass_settings
def set_values(settings: Settings, name: str, values: tuple[str, ...]) -> None:
    """Make a profile, or change settings of it; an empty VALUE removes the setting.

    KEY is address (one address of all three services), recommender_address, estimator_address or trainer_address;
    project; token_file, token_command (run again when its token expires) or token, which `token=-` reads from stdin;
    tls (true or false, where the address does not say so), tls_ca, tls_certificate and tls_key (PEM files),
    tls_server_name; timeout (seconds for every unary call).
    """
    from finetree_cli.backends.profiles import change

    given = dict(_pair(value) for value in values)
    if given.get("token") == "-":
        given["token"] = _secret()
    file = change(name, given)
    if settings.out.json:
        settings.out.document({"profile": name, "path": str(file), "changed": sorted(given)})
    else:
        settings.out.say(f"profile {name} is changed in {file}")


@profile.command("delete", examples=("finetree profile delete prod",))
@click.argument("name")
@pass_settings
def delete_profile(settings: Settings, name: str) -> None:
    """Delete a profile."""
    from finetree_cli.backends.profiles import delete

    file = delete(name)
    if settings.out.json:
        settings.out.document({"deleted": name, "path": str(file)})
    else:
        settings.out.say(f"profile {name} is deleted from {file}")


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        # A mistyped token must not be repeated on the terminal.
        raise click.UsageError(f"expected KEY=VALUE, got {len(text)} characters without '='")
    return key.strip(), value.strip()


def _secret() -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt("token", hide_input=True, err=True)
        return typed.strip()
    text = sys.stdin.readline().strip()
    if not text:
        raise BadInput("token=- reads the token from stdin, which is empty")
    return text
