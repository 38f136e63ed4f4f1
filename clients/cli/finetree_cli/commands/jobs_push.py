# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs push`: an artifact to a model hub."""

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import artifact_pb2

ANNOTATION = "finetree.dev/pushed"
"""Annotation of a job that was pushed: "REPOSITORY@COMMIT" of the newest push."""
CARD = "README.md"
_REPOSITORY = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_LOADS_HERE = re.compile(r'^(?!.*adapter\.load)(.*from_pretrained\(.*?)"\."([,)].*)$', re.MULTILINE)
"""A line of the card that loads from its own folder, before and behind that folder."""


@click.command(
    "push",
    cls=Command,
    examples=(
        "finetree jobs push JOB acme/support-lora",
        "finetree jobs push JOB acme/support-lora --public --revision v2 --token-env HUB_TOKEN --json | jq .commit",
    ),
)
@click.argument("job")
@click.argument("repository", metavar="REPO")
@click.option("--private/--public", default=True, help="Who may read it. [default: private]")
@click.option("--revision", default="main", show_default=True, help="Branch; made where it is not there.")
@click.option(
    "--token-env",
    default="HF_TOKEN",
    show_default=True,
    metavar="NAME",
    help="Environment variable with a token that may write.",
)
@click.option(
    "--artifact", "wanted", metavar="NAME", help="Artifact to push. [default: the adapter, model or GGUF file]"
)
@pass_settings
def push(
    settings: Settings,
    /,
    *,
    job: str,
    repository: str,
    private: bool,
    revision: str,
    token_env: str,
    wanted: str | None,
) -> None:
    """Push an artifact of a job to a model hub, with its model card, as one commit.

    The hub is huggingface.co, or the one that HF_ENDPOINT names. The repository is made private unless --public is
    given, and one that is public already is not pushed to without it. Interrupted, the command is run again: files that
    are there are not sent again, and where nothing has changed there is no new commit. The commit is kept in the job's
    annotation finetree.dev/pushed. Needs `pip install 'finetree-cli[push]'`.
    """
    from finetree_cli.backends import model_hub
    from finetree_cli.errors import BadInput
    from finetree_cli.render.transfer import transfer

    if not _REPOSITORY.fullmatch(repository):
        raise BadInput(f"{repository!r} is no repository", remedy="name it organization/name")
    token = os.environ.get(token_env, "").strip()
    if not token:
        remedy = f"set {token_env} to a token of the hub that may write, or name another variable with --token-env"
        raise BadInput(f"the environment variable {token_env} is not set", remedy=remedy, reason="PUSH_TOKEN_MISSING")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or model_hub.DEFAULT_ENDPOINT
    target = model_hub.Target(repository, revision, public=not private, endpoint=endpoint, token=token)
    with settings.client() as client:
        handle = client.job(job)
        found = handle.refresh()
        artifact = choose(handle.artifacts(), wanted)
        kept = cache_folder() / found.uid
        with transfer(settings.out, "fetching the artifact") as on_progress:
            folder = handle.download(kept, on_progress=on_progress)[artifact.name]
        place = place_of(repository, revision)
        settings.out.say(f"pushing {len(artifact.files)} files to {repository}")
        pushed = model_hub.push(target, files_of(artifact, folder, place), message=f"Push {found.name}")
        handle.update(annotations={ANNOTATION: f"{repository}@{pushed.commit}"})
        shutil.rmtree(kept, ignore_errors=True)
    if settings.out.json:
        settings.out.document(
            {
                "repository": repository,
                "revision": revision,
                "private": pushed.private,
                "commit": pushed.commit,
                "commit_url": pushed.commit_url,
                "uploaded": list(pushed.uploaded),
                "artifact": artifact.name,
            }
        )
        return
    settings.out.text(pushed.commit_url)
    sent = f"{len(pushed.uploaded)} of {len(artifact.files)} files sent" if pushed.uploaded else "nothing had changed"
    settings.out.say(f"commit {pushed.commit[:12]} of {revision}, {'private' if pushed.private else 'public'}: {sent}")


def choose(artifacts: "list[artifact_pb2.Artifact]", wanted: str | None) -> "artifact_pb2.Artifact":
    """Return the artifact of a name, or the one that is an adapter, a model or a GGUF file. Raises BadInput."""
    from finetree_api.trainer.v1 import artifact_pb2

    from finetree_cli.errors import BadInput

    names = [artifact.name.rpartition("/")[2] for artifact in artifacts]
    if wanted is not None:
        found = [each for each, name in zip(artifacts, names, strict=True) if wanted in (each.name, name)]
    else:
        kinds = (artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL, artifact_pb2.ARTIFACT_KIND_GGUF)
        found = [each for each in artifacts if each.kind in kinds]
    if len(found) == 1:
        return found[0]
    there = f"it has {', '.join(names)}" if names else "it has none"
    if wanted is not None:
        raise BadInput(f"the job has no artifact {wanted!r}: {there}", reason="ARTIFACT_NOT_FOUND")
    text = "the job has several of them" if found else f"the job has no adapter, no model and no GGUF file: {there}"
    raise BadInput(
        text, remedy=f"name one with --artifact: {', '.join(names)}" if found else "", reason="ARTIFACT_NOT_FOUND"
    )


def place_of(repository: str, revision: str) -> str:
    """Return the repository as the lines of a card name it, with its branch where that is another than main."""
    return f'"{repository}"' if revision == "main" else f'"{repository}", revision="{revision}"'


def files_of(artifact: "artifact_pb2.Artifact", folder: Path, place: str) -> dict[str, Path | bytes]:
    """Return the artifact's files; the lines of the card load from `place` instead of from the folder."""
    files: dict[str, Path | bytes] = {file.path: folder / file.path for file in artifact.files}
    if CARD in files:
        text = (folder / CARD).read_text(encoding="utf-8")
        files[CARD] = _LOADS_HERE.sub(lambda line: f"{line[1]}{place}{line[2]}", text).encode()
    return files


def cache_folder() -> Path:
    """Return where an artifact is kept until it is pushed."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "finetree" / "push"
