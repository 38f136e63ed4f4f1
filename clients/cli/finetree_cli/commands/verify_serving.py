# SPDX-License-Identifier: Apache-2.0
"""`finetree verify-serving`: canaries to a running server."""

import os
from typing import TYPE_CHECKING

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree import ServingReport


@click.command(
    "verify-serving",
    cls=Command,
    examples=(
        "finetree verify-serving http://127.0.0.1:8000 --artifact JOB",
        "finetree verify-serving https://llm.example --artifact JOB --model support --base-model org/base",
        "finetree verify-serving https://llm.example --artifact JOB --api-key-env KEY --json | jq .verdict",
    ),
)
@click.argument("url")
@click.option("--artifact", "job", required=True, metavar="JOB", help="Job that made what is served.")
@click.option(
    "--base-model",
    metavar="NAME",
    help="Name of the base there. [default: the one that the adapter names, or the base's hub id]",
)
@click.option(
    "--model",
    "adapter",
    metavar="NAME",
    help="Name of the adapter there. [default: that of the job's id, or the only other model]",
)
@click.option("--api-key-env", metavar="NAME", help="Environment variable with the server's key.")
@click.option("--timeout", type=Duration(), default="60s", show_default=True, help="Longest wait for an answer.")
@pass_settings
def verify_serving(
    settings: Settings,
    /,
    *,
    url: str,
    job: str,
    base_model: str | None,
    adapter: str | None,
    api_key_env: str | None,
    timeout: float,
) -> None:
    """Ask a running server (vLLM, SGLang, llama.cpp and others like OpenAI's) whether an adapter has an effect there.

    Base and adapter answer the same prompts, the base twice: an adapter whose answers and log-probabilities are the
    base's own is loaded without an effect, which no server reports. Prompts that training has recorded answers of are
    asked too, and compared with them. Exit code 3: no effect, other answers than in training, not served at all, or
    nothing that could be told; 5: the server is broken.
    """
    from finetree_cli.render.transfer import transfer

    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise BadInput(f"the environment variable {api_key_env} is not set", remedy="set it, or leave the option out")
    with settings.client() as client, transfer(settings.out, "asking") as on_progress:
        report = client.verify_serving(
            url,
            job,
            base_model=base_model,
            model=adapter,
            key=key,
            answer_timeout=timeout,
            on_progress=on_progress,
        )
    if settings.out.json:
        settings.out.document(report.document())
    else:
        for line in lines(report):
            settings.out.text(line)
    _require_effect(report)


def _require_effect(report: "ServingReport") -> None:
    """Raise GateFailed where the adapter has no effect, another one than in training, or none that could be told."""
    from finetree import ServingVerdict

    if report.verdict is ServingVerdict.UNDECIDED:
        raise GateFailed(
            f"{report.base} answers the same prompts otherwise each time: nothing can be compared",
            remedy="let the server decode greedily (temperature 0) and one request at a time",
            reason="SERVED_UNDECIDED",
            reported=True,
        )
    if report.verdict is ServingVerdict.NO_EFFECT:
        raise GateFailed(
            f"{report.adapter} answers as {report.base} does: it is served without an effect",
            remedy="check that it was trained on this base, and its module names; `finetree serving JOB` has the rules",
            reason="SERVED_WITHOUT_EFFECT",
            reported=True,
        )
    if report.verdict is ServingVerdict.OTHER_ANSWERS:
        raise GateFailed(
            f"{report.adapter} answers none of {len(report.samples)} prompts as in training",
            remedy="check base, chat template and scale (lora_alpha); `finetree serving JOB` has the rules",
            reason="SERVED_OTHERWISE",
            reported=True,
        )


def lines(report: "ServingReport") -> list[str]:
    """Return the report as text."""
    told = report.document()
    found = [f"{told['differing']} of {told['canaries']} prompts are answered otherwise than by {report.base}"]
    if told["largest_difference"] is None:
        found.append("the server offers no log-probabilities: texts alone were compared")
    else:
        noise = f"noise {told['largest_noise'] or 0:.4g}"
        found.append(f"largest difference of log-probabilities {told['largest_difference']:.4g} ({noise})")
    if report.samples:
        found.append(f"{report.matching} of {len(report.samples)} recorded prompts are answered as in training")
    else:
        found.append("training has recorded no answers (evaluation.samples): there was nothing to compare them with")
    return found
