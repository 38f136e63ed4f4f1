# SPDX-License-Identifier: Apache-2.0
"""`finetree verify-serving`: canaries to a running server."""

import os
from typing import TYPE_CHECKING

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from finetree import Job

    from finetree_cli.canaries import Report, Sample

MOST_EVENTS = 100


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
    from finetree_cli.backends.openai_server import OpenAiServer
    from finetree_cli.canaries import Verdict, steps_of, verify
    from finetree_cli.render.transfer import transfer

    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise BadInput(f"the environment variable {api_key_env} is not set", remedy="set it, or leave the option out")
    server = OpenAiServer(url, key, timeout)
    with settings.client() as client:
        handle = client.job(job)
        samples, hub_id = recorded(handle), base_of(handle)
        uid = handle.refresh().uid
    models = server.models()
    adapter = adapter or named_after(uid, models)
    base, tuned = choose(
        models, base_model or models.get(adapter or "") or hub_id, adapter, named=base_model is not None
    )
    total, done = steps_of(samples), 0
    with transfer(settings.out, "asking") as on_progress:

        def on_step() -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(done, total)

        report = verify(server, base, tuned, samples=samples, on_step=on_step)
    if settings.out.json:
        settings.out.document(report.document())
    else:
        for line in lines(report):
            settings.out.text(line)
    if report.verdict is Verdict.UNDECIDED:
        raise GateFailed(
            f"{base} answers the same prompts otherwise each time: nothing can be compared",
            remedy="let the server decode greedily (temperature 0) and one request at a time",
            reason="SERVED_UNDECIDED",
            reported=True,
        )
    if report.verdict is Verdict.NO_EFFECT:
        raise GateFailed(
            f"{tuned} answers as {base} does: it is served without an effect",
            remedy="check that it was trained on this base, and its module names; `finetree serving JOB` has the rules",
            reason="SERVED_WITHOUT_EFFECT",
            reported=True,
        )
    if report.verdict is Verdict.OTHER_ANSWERS:
        raise GateFailed(
            f"{tuned} answers none of {len(report.samples)} prompts as in training",
            remedy="check base, chat template and scale (lora_alpha); `finetree serving JOB` has the rules",
            reason="SERVED_OTHERWISE",
            reported=True,
        )


def recorded(job: "Job") -> "list[Sample]":
    """Return the answers that training has recorded for its samples."""
    from finetree_cli.canaries import Sample

    events = job.list_events(last=MOST_EVENTS, kinds=("sample",))
    found = (event.sample for event in events)
    return [Sample(sample.prompt, sample.before, sample.after) for sample in found if sample.prompt and sample.after]


def base_of(job: "Job") -> str:
    """Return the hub id of a job's base; empty where it has none."""
    return next((artifact.base.hub_id for artifact in job.artifacts() if artifact.base.hub_id), "")


def named_after(uid: str, models: "Iterable[str]") -> str | None:
    """Return the one model whose name ends in a job's uid, as this suite's own server names what a job has trained."""
    found = [name for name in models if uid and name.rpartition(":")[2] == uid]
    return found[0] if len(found) == 1 else None


def choose(models: dict[str, str], base: str, adapter: str | None, *, named: bool) -> tuple[str, str]:
    """Return the names of base and adapter on a server that has `models`, by name with what each is an adapter of.

    Raises BadInput where the names do not tell, GateFailed NOT_SERVED where one is not there.
    """
    there = ", ".join(models) or "none"
    if base not in models and not named:
        # vLLM names the base of an adapter as its parent, and serves the base under that name.
        roots = {parent for parent in models.values() if parent in models} or set(models) - {adapter}
        if len(roots) != 1:
            raise BadInput(f"which of these is the base? {there}", remedy="name it with --base-model")
        (base,) = roots
    if base not in models:
        raise GateFailed(f"the server has no model {base!r}; it has {there}", reason="NOT_SERVED")
    others = [name for name in models if name != base]
    if adapter is None and not others:
        text = f"the server has only {base}"
        raise GateFailed(text, remedy="load the adapter under a name of its own", reason="NOT_SERVED")
    if adapter is None and len(others) > 1:
        raise BadInput(f"which of these is the adapter? {', '.join(others)}", remedy="name it with --model")
    adapter = adapter or others[0]
    if adapter not in models:
        raise GateFailed(f"the server has no model {adapter!r}; it has {there}", reason="NOT_SERVED")
    if adapter == base:
        raise BadInput("base and adapter have the same name", remedy="name the one that is served beside the base")
    return base, adapter


def lines(report: "Report") -> list[str]:
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
