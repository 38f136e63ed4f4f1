# SPDX-License-Identifier: Apache-2.0
"""`finetree config`: the settings that hold, where each comes from, and the file that profiles are in."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree.config.settings import Setting

NOT_SENT = "not sent: the addresses are not the profile's"


@click.group(cls=Group, examples=("finetree config show --origin", "finetree config path"))
def config() -> None:
    """Show the settings that hold, and where each comes from."""


@config.command(
    examples=(
        "finetree config show",
        "finetree config show --origin --profile prod",
        "finetree config show --json | jq '.services.trainer'",
    )
)
@click.option(
    "--origin", is_flag=True, help="Also say where each comes from: an option, a variable, a line of the file."
)
@pass_settings
def show(settings: Settings, *, origin: bool) -> None:
    """Show the settings of a client that is started now, with secrets masked.

    The first that is given holds: an option, the environment variable FINETREE_<SETTING>, the profile, the default.
    A profile's token and TLS settings are used with the addresses of that profile alone. Nothing connects, and no
    token is read.
    """
    found = _settings(settings)
    options = settings.options()
    services = {
        name: {
            "address": target.address,
            "tls": target.tls is not None,
            "token_sent": target.token is not None,
        }
        for name, target in options.targets.items()
    }
    if any(each["token_sent"] for each in services.values()):
        # Names without a project are then of the token's own, which the server knows.
        found = [_of_token(each) if each.key == "project" else each for each in found]
    if settings.out.json:
        shown = {each.key: {"value": each.shown(), "origin": each.origin} for each in found}
        settings.out.document({"settings": shown, "services": services})
        return
    unused = (
        {"token", "token_file", "token_command"} if not any(each["token_sent"] for each in services.values()) else set()
    )
    rows = [
        (each.key, f"{each.shown()} ({NOT_SENT})" if each.key in unused else each.shown() or "-", each.origin)
        for each in found
    ]
    settings.out.table(
        ["Setting", "Value", "Origin"][: 3 if origin else 2], [row[: 3 if origin else 2] for row in rows]
    )
    for name, service in services.items():
        encrypted = "with TLS" if service["tls"] else "in plain text"
        settings.out.text(
            f"{name}: {service['address']} {encrypted}{', with the token' if service['token_sent'] else ''}"
        )


@config.command(examples=("finetree config path", "finetree config path --json | jq -r .path"))
@pass_settings
def path(settings: Settings) -> None:
    """Print the path of the configuration file, which need not exist: XDG_CONFIG_HOME, else ~/.config."""
    from finetree_cli.backends.profiles import require_path

    found = require_path()
    if settings.out.json:
        settings.out.document({"path": str(found), "exists": found.exists()})
    else:
        settings.out.text(str(found))


def _settings(settings: Settings) -> "list[Setting]":
    """List the settings that hold, in the order of the keys, and the profile and the addresses first."""
    import dataclasses

    from finetree.config.keys import KEYS

    resolved = settings.resolved(lines=True)
    addresses = [
        dataclasses.replace(setting, key=f"{service}_address", origin=_option(f"{service}_address", setting))
        for service, setting in resolved.addresses.items()
    ]
    others = [resolved.found[key] for key in KEYS if key in resolved.found]
    named = [dataclasses.replace(each, origin=_option(each.key, each)) for each in (resolved.profile, *others)]
    return [named[0], *addresses, *named[1:]]


def _of_token(project: "Setting") -> "Setting":
    """Return the project as a caller with a token has it: the token's own where none was given."""
    import dataclasses

    return dataclasses.replace(project, value="", origin="token") if project.level == "default" else project


def _option(key: str, setting: "Setting") -> str:
    """Name the option in place of the SDK's argument."""
    if setting.level != "argument":
        return setting.origin
    own = setting.key if setting.key in ("address", "profile", "project") else key.removesuffix("_address")
    return f"--{own}"
