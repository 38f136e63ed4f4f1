# SPDX-License-Identifier: Apache-2.0
"""`finetree version`: the version of this program, and with --services those of the servers."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree version", "finetree version --services --json"))
@click.option("--services", is_flag=True, help="Also the versions of the three services.")
@pass_settings
def version(settings: Settings, services: bool) -> None:
    """Print versions."""
    from importlib.metadata import version as installed

    found: dict[str, object] = {"finetree-cli": installed("finetree-cli"), "finetree": installed("finetree")}
    if services:
        found["services"] = _services(settings)
    if settings.out.json:
        settings.out.document(found)
        return
    for name, value in found.items():
        for key, text in value.items() if isinstance(value, dict) else [(name, value)]:
            settings.out.text(f"{key} {text or 'does not answer'}")


def _services(settings: Settings) -> dict[str, str]:
    """Return the version by service; empty for one that does not answer."""
    from finetree import FinetreeError

    versions: dict[str, str] = {}
    with settings.client() as client:
        for name in ("recommender", "estimator", "trainer"):
            try:
                versions[name] = client.server_info(name, timeout=2.0).version
            except FinetreeError:
                versions[name] = ""
    return versions
