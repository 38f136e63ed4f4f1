# SPDX-License-Identifier: Apache-2.0
"""`finetree serve`: keep a base model loaded, with trained weights on it."""

import re

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration, Target

JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.command(
    cls=Command,
    examples=(
        "finetree serve JOB",
        "finetree serve smollm2-135m-instruct --target support=JOB --target sales=OTHER_JOB@200",
        "finetree serve smollm2-135m-instruct --lease 2h --max-parallel 16 --json | jq -r .name",
    ),
)
@click.argument("model")
@click.option(
    "--target",
    "targets",
    type=Target(),
    multiple=True,
    metavar="NAME=JOB",
    help="Trained weights under a name: JOB, JOB@STEP, an artifact, or path:FOLDER; may be repeated.",
)
@click.option("--precision", type=click.Choice(("bf16", "fp32")), help="Of the base. [default: the server's choice]")
@click.option("--quantization", type=click.Choice(("nf4", "fp4", "int8")), help="Of the base. [default: none]")
@click.option("--lease", type=Duration(), help="End after this time without a question. [default: 10m]")
@click.option("--yield-after", type=Duration(), help="Give way to a waiting job after this time. [default: 60s]")
@click.option("--max-context-tokens", type=click.IntRange(16), help="Prompt and answer. [default: up to 8192]")
@click.option("--max-parallel", type=click.IntRange(1, 256), help="Answers decoded together. [default: 8]")
@click.option("--detach", is_flag=True, help="Do not wait until the model is loaded.")
@click.option("--timeout", type=Duration(), help="Longest wait until the model is loaded.")
@pass_settings
def serve(
    settings: Settings,
    /,
    *,
    model: str,
    targets: tuple[tuple[str, str], ...],
    precision: str | None,
    quantization: str | None,
    lease: float | None,
    yield_after: float | None,
    max_context_tokens: int | None,
    max_parallel: int | None,
    detach: bool,
    timeout: float | None,
) -> None:
    """Keep MODEL loaded as a job that answers prompts, until it is cancelled or nobody asks it for the lease's time.

    MODEL is a name or hub id; or a job, whose base model is served with what it has trained as the target "trained".
    """
    from finetree_cli.follow import show_created, wait_ready
    from finetree_cli.render.trainer.targets import show_targets

    with settings.client() as client:
        serving = client.serve(
            client.job(model) if JOB_ID.fullmatch(model) else model,
            targets={name: weights_of(text) for name, text in targets} or None,
            precision=precision or 0,
            quantization=quantization,
            lease=lease,
            yield_after=yield_after,
            max_context_tokens=max_context_tokens,
            max_parallel=max_parallel,
        )
        if detach:
            show_created(settings, serving.job)
            return
        wait_ready(settings, serving, timeout=timeout)
        if settings.out.json:
            settings.out.message(serving.job.refresh())
        else:
            settings.out.text(serving.job.name)
            show_targets(settings.out, serving.targets())


def weights_of(text: str) -> str | dict[str, str]:
    """What the SDK takes for trained weights that a user names."""
    return {"path": text.removeprefix("path:")} if text.startswith("path:") else text
