# SPDX-License-Identifier: Apache-2.0
"""`finetree datasets`: list, upload, show, delete."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import dataset_pb2


@click.group(cls=Group, examples=("finetree datasets upload train.jsonl", "finetree datasets list"))
def datasets() -> None:
    """Upload, list, show and delete datasets."""


@datasets.command("list", examples=("finetree datasets list", "finetree datasets list --json | jq '.datasets[].name'"))
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Largest number of datasets.")
@pass_settings
def list_datasets(settings: Settings, limit: int) -> None:
    """List datasets, newest first."""
    from itertools import islice

    from finetree_cli.output import as_dict, short_name
    from finetree_cli.render import units

    with settings.client() as client:
        found = list(islice(client.list_datasets(page_size=min(limit, 1000)), limit))
    if settings.out.json:
        settings.out.document({"datasets": [as_dict(item) for item in found]})
        return
    rows = [
        (
            short_name(item.name),
            item.display_name,
            _state(item),
            str(item.profile.examples),
            units.size(item.size_bytes),
        )
        for item in found
    ]
    settings.out.table(["Dataset", "Name", "State", ">Rows", ">Size"], rows)


@datasets.command(examples=("finetree datasets upload train.jsonl", "finetree datasets upload train.jsonl --json"))
@click.argument("file", type=click.Path(path_type=Path))
@pass_settings
def upload(settings: Settings, file: Path) -> None:
    """Upload a file of training rows; an interrupted upload is resumed, the same content is not sent twice.

    Formats: JSONL, JSON, CSV, TSV, Parquet and plain text; all but Parquet also compressed with gzip or zstd.
    """
    from finetree_cli.uploads import upload as upload_file

    with settings.client() as client:
        found = upload_file(settings, client, file)
    if settings.out.json:
        settings.out.message(found)
    else:
        settings.out.text(found.name)


@datasets.command(examples=("finetree datasets show DATASET", "finetree datasets show DATASET --json"))
@click.argument("dataset")
@pass_settings
def show(settings: Settings, dataset: str) -> None:
    """Show a dataset: state, size, rows and tokens."""
    from finetree_cli.render import units

    with settings.client() as client:
        found = client.get_dataset(dataset)
    if settings.out.json:
        settings.out.message(found)
        return
    profile = found.profile
    counted = "counted" if profile.exact else "estimated from characters"
    settings.out.text(f"{found.name}  {found.display_name}".rstrip())
    settings.out.text(f"  state   {_state(found)}, {units.size(found.size_bytes)}, sha256 {found.sha256}")
    settings.out.text(f"  rows    {profile.examples}")
    settings.out.text(f"  tokens  {profile.total_tokens} ({counted}), {profile.target_fraction:.0%} are targets")


@datasets.command(examples=("finetree datasets delete DATASET",))
@click.argument("dataset")
@pass_settings
def delete(settings: Settings, dataset: str) -> None:
    """Delete a dataset that no job uses."""
    with settings.client() as client:
        client.delete_dataset(dataset)
    if settings.out.json:
        settings.out.document({"deleted": dataset})
    else:
        settings.out.say(f"deleted {dataset}")


def _state(item: "dataset_pb2.Dataset") -> str:
    from finetree_api.trainer.v1 import dataset_pb2

    from finetree_cli.render import units

    return units.word(dataset_pb2.DatasetState, item.state)
