# SPDX-License-Identifier: Apache-2.0
"""`finetree gpus`: the GPUs of the estimator's catalog."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree gpus", "finetree gpus rtx", "finetree gpus --json"))
@click.argument("prefix", default="")
@pass_settings
def gpus(settings: Settings, prefix: str) -> None:
    """List the GPUs of the catalog.

    PREFIX is the beginning of their names.
    """
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator.catalog import show_accelerators

    with open_estimator(settings, "ListAccelerators") as estimator:
        found = list(estimator.list_accelerators(prefix))
    if settings.out.json:
        settings.out.document({"accelerators": [as_dict(item) for item in found]})
    else:
        show_accelerators(settings.out, found)
    if not found and prefix:
        settings.out.say(f"no name begins with {prefix!r}; `finetree gpus` lists all")
