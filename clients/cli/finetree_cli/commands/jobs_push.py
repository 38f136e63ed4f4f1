# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs push`: an artifact to a model hub."""

import os

import click

from finetree_cli.options.command import Command, Settings, pass_settings


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
    annotation finetree.dev/pushed: without the right to change the job nothing is sent. Needs
    `pip install 'finetree-cli[push]'`.
    """
    from finetree_cli.errors import BadInput
    from finetree_cli.render.transfer import transfer

    token = os.environ.get(token_env, "").strip()
    if not token:
        remedy = f"set {token_env} to a token of the hub that may write, or name another variable with --token-env"
        raise BadInput(f"the environment variable {token_env} is not set", remedy=remedy, reason="PUSH_TOKEN_MISSING")
    settings.out.say(f"pushing to {repository}")
    with settings.client() as client, transfer(settings.out, "fetching the artifact") as on_progress:
        pushed = client.job(job).push(
            repository, revision=revision, public=not private, artifact=wanted, token=token, on_progress=on_progress
        )
    if settings.out.json:
        settings.out.document(
            {
                "repository": repository,
                "revision": revision,
                "private": pushed.private,
                "commit": pushed.commit,
                "commit_url": pushed.commit_url,
                "uploaded": list(pushed.uploaded),
                "artifact": pushed.artifact,
            }
        )
        return
    settings.out.text(pushed.commit_url)
    sent = f"{len(pushed.uploaded)} of {pushed.files} files sent" if pushed.uploaded else "nothing had changed"
    settings.out.say(f"commit {pushed.commit[:12]} of {revision}, {'private' if pushed.private else 'public'}: {sent}")
