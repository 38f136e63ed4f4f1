# SPDX-License-Identifier: Apache-2.0
"""`finetree whoami`: who the trainer takes the caller for."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree whoami", "finetree whoami --json | jq .roles"))
@pass_settings
def whoami(settings: Settings) -> None:
    """Show the principal, the roles and the expiry of one's token, as the trainer sees them."""
    from finetree_api.types.v1 import access_pb2

    with settings.client() as client:
        caller = client.server_info("trainer").caller
    if settings.out.json:
        settings.out.message(caller)
        return
    roles = [
        f"{project}={access_pb2.Role.Name(role).removeprefix('ROLE_').lower()}"
        for project, role in sorted(caller.roles.items())
    ]
    rows = [
        ("principal", caller.principal),
        ("project", caller.project),
        ("roles", ", ".join([*roles, *(["operator"] if caller.operator else [])]) or "none"),
        ("expires", caller.expire_time.ToJsonString() if caller.HasField("expire_time") else "never"),
    ]
    for name, value in rows:
        settings.out.text(f"{name:10} {value}")
