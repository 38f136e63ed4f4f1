# SPDX-License-Identifier: Apache-2.0
"""`finetree models`: list, pull, show, rm."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import base_model_pb2


@click.group(
    cls=Group,
    examples=(
        "finetree models list --catalog llama",
        "finetree models pull Qwen/Qwen2.5-0.5B-Instruct",
        "finetree models list",
    ),
)
def models() -> None:
    """Fetch, list, show and delete base models."""


@models.command(
    "list",
    examples=(
        "finetree models list",
        "finetree models list --catalog llama",
        "finetree models list --json | jq '.base_models[].hub_id'",
    ),
)
@click.argument("prefix", default="")
@click.option("--catalog", is_flag=True, help="List the models that estimates know by name instead.")
@pass_settings
def list_models(settings: Settings, prefix: str, catalog: bool) -> None:
    """List the base models on the trainer's machine whose name or hub id begins with PREFIX."""
    from finetree_cli.output import as_dict
    from finetree_cli.render.trainer.base_models import show_list

    if catalog:
        _list_catalog(settings, prefix)
        return
    with settings.client() as client:
        found = [model for model in client.list_base_models(page_size=1000) if _begins(model, prefix)]
    if settings.out.json:
        settings.out.document({"base_models": [as_dict(model) for model in found]})
    else:
        show_list(settings.out, found)


def _list_catalog(settings: Settings, prefix: str) -> None:
    """List the catalog's models whose name, hub id or family begins with the prefix."""
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator.catalog import show_models

    with open_estimator(settings, "ListModels") as estimator:
        found = list(estimator.list_models(prefix))
    if settings.out.json:
        settings.out.document({"models": [as_dict(item) for item in found]})
    else:
        show_models(settings.out, found)


@models.command(
    examples=(
        "finetree models pull smollm2-135m-instruct",
        "finetree models pull Qwen/Qwen2.5-0.5B-Instruct@main",
        "finetree models pull meta-llama/Llama-3.2-1B --json",
    )
)
@click.argument("model")
@pass_settings
def pull(settings: Settings, model: str) -> None:
    """Fetch a model by its catalog name or hub id (org/name, with an optional @revision), and follow the download.

    Files that are there already are not fetched again, and an interrupted download is resumed. The token for gated
    models is a setting of the trainer (hub_token). With --json, stdout has one event of the job on each line.
    """
    from finetree_cli.follow import follow
    from finetree_cli.options.spec import model_source

    with settings.client() as client:
        follow(settings, client.prepare(model=model_source(model), display_name=f"pull {model}"[:256]))
    if not settings.out.json:
        settings.out.say(f"{model} is ready")


@models.command(examples=("finetree models show acme/tiny", "finetree models show acme/tiny@main --json"))
@click.argument("model")
@pass_settings
def show(settings: Settings, model: str) -> None:
    """Show a base model on the trainer's machine."""
    from finetree_cli.render.trainer.base_models import show_model

    with settings.client() as client:
        found = client.get_base_model(model)
    if settings.out.json:
        settings.out.message(found)
    else:
        show_model(settings.out, found)


@models.command(examples=("finetree models rm acme/tiny", "finetree models rm acme/tiny@0123456"))
@click.argument("model")
@pass_settings
def rm(settings: Settings, model: str) -> None:
    """Delete a base model that no job uses from the trainer's machine."""
    from finetree_cli.render import units

    with settings.client() as client:
        gone = client.delete_base_model(model)
    if settings.out.json:
        settings.out.message(gone)
    else:
        settings.out.say(f"deleted {gone.name}, {units.size(gone.size_bytes)}")


def _begins(model: "base_model_pb2.BaseModel", prefix: str) -> bool:
    names = (model.hub_id, model.name.removeprefix("models/"))
    return any(name.lower().startswith(prefix.lower()) for name in names)
