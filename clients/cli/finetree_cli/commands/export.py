# SPDX-License-Identifier: Apache-2.0
"""`finetree export`: trained weights merged into their base, or written for llama.cpp and Ollama."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from finetree import Job
    from finetree_api.trainer.v1 import export_pb2

FORMATS = {"transformers": "transformers", "gguf": "gguf", "gguf-lora": "gguf_lora"}
DTYPES = ("f32", "f16", "bf16", "q8_0")
FOUR_BITS = ("nf4", "fp4", "int4", "4bit", "q4", "q5", "q6", "q3", "q2", "iq")
"""How the names of number formats begin that an export has not."""


class WeightType(click.ParamType[str]):
    """A number format of weights; one of fewer bits is refused with the command that makes it."""

    name = "dtype"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the choices, as click shows those of a Choice."""
        del param, ctx
        return f"[{'|'.join(DTYPES)}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name in small letters."""
        found = value.lower()
        if found in DTYPES:
            return found
        if found.startswith(FOUR_BITS):
            made = "Q4_K_M" if not found.startswith(("q", "iq")) else value.upper()
            text = f"weights are never merged into {value} ones. Export f16 as gguf, then: "
            text += f"llama-quantize model-f16.gguf model-{made}.gguf {made}"
            self.fail(text, param, ctx)
        return self.fail(f"{value!r} is not one of {', '.join(DTYPES)}.", param, ctx)


@click.command(
    cls=Command,
    examples=(
        "finetree export JOB --output merged",
        "finetree export JOB --format gguf --dtype q8_0 --wait -o model",
        "finetree export projects/default/jobs/JOB/checkpoints/200 --format gguf --dtype bf16 --detach",
        "finetree export adapters/mine --path --base smollm2-135m-instruct --format gguf-lora -o adapter",
    ),
)
@click.argument("weights", metavar="JOB")
@click.option("--path", is_flag=True, help="JOB is the path of an adapter's folder under a model root of the trainer.")
@click.option("--format", "kind", type=click.Choice(tuple(FORMATS)), default="transformers", show_default=True)
@click.option(
    "--dtype",
    type=WeightType(),
    help="Number format of the weights. [default: the base's own; f16 of gguf; f32 of gguf-lora]",
)
@click.option("--base", metavar="MODEL", help="Model to merge into, unquantized. [default: the one it was trained on]")
@click.option("--prompts", metavar="DATASET", help="Dataset whose prompts are asked. [default: the job's own rows]")
@click.option("--max-prompts", type=click.IntRange(1, 256), help="Largest number of prompts. [default: 8]")
@click.option("--max-new-tokens", type=click.IntRange(1, 1024), help="Longest answer in tokens. [default: 32]")
@click.option(
    "--output", "-o", type=click.Path(file_okay=False, path_type=Path), help="New or empty folder to download it to."
)
@click.option("--wait/--detach", default=True, help="Follow the job to its end, or return once it is accepted.")
@click.option("--timeout", type=Duration(), help="Stop following after this time; the job still runs.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Label; may be repeated.")
@click.option("--request-id", default="", help="Idempotency key: the same key always gives the same job.")
@pass_settings
def export(
    settings: Settings,
    /,
    *,
    weights: str,
    path: bool,
    kind: str,
    wait: bool,
    output: Path | None,
    timeout: float | None,
    labels: tuple[tuple[str, str], ...],
    request_id: str,
    **given: Any,
) -> None:
    """Merge what a job has trained into its base, or write it as GGUF for llama.cpp and Ollama.

    Weights, that is; `finetree jobs export` writes the metrics of jobs.

    JOB is a job, or the name of an artifact or a checkpoint. The file is read back and asked prompts: where it answers
    otherwise than the trained model, beyond what its number format rounds, nothing is published and the exit status
    is that of a failed job. It says how far the two differ, and which lines load the file. With --json, stdout has one
    event on each line; with --detach, the job.
    """
    from finetree_cli.follow import follow, show_created

    if output is not None and not wait:
        raise click.UsageError("--output needs --wait: a job that is left to itself has no files yet")
    if output is not None:
        _refuse_folder_in_use(output)
    fields: dict[str, Any] = {name: given[name] for name in ("prompts", "max_prompts", "max_new_tokens")}
    fields |= {"format": FORMATS[kind], "weight_type": given["dtype"] or 0, "base": given["base"]}
    fields |= {"display_name": display_name(weights, kind, given["dtype"]), "labels": dict(labels)}
    with settings.client() as client:
        job = client.export({"path": weights} if path else weights, request_id=request_id, **fields)
        settings.out.say(f"job {job.name}")
        if not wait:
            show_created(settings, job)
            return
        reports: list[export_pb2.ExportReport] = []
        try:
            follow(
                settings,
                job,
                timeout=timeout,
                seen=lambda event: reports.append(event.export_report) if event.HasField("export_report") else None,
            )
        finally:
            _show(settings, reports)
        folder = _download(settings, job, output) if output is not None else None
    if reports and not settings.out.json:
        from finetree_cli.render.trainer.results.exports import show_commands

        show_commands(settings.out, reports[-1], folder)


def display_name(weights: str, kind: str, dtype: str | None) -> str:
    """Return a name that tells the exports of one job apart: "gguf q8_0 of JOB"."""
    return " ".join((kind, *([dtype] if dtype else []), "of", weights))[:256]


def _refuse_folder_in_use(output: Path) -> None:
    """Refuse a folder that has files: those of two exports together are neither. Raises BadInput."""
    from finetree_cli.errors import BadInput

    try:
        used = output.exists() and any(output.iterdir())
    except OSError as error:
        raise BadInput(f"{output}: {error.strerror}", remedy="give a writable folder with --output") from error
    if used:
        remedy = "name another; `finetree jobs download JOB` goes on with a download of an export that was cut"
        raise BadInput(f"--output {output}: the folder is not empty", remedy=remedy, reason="FOLDER_NOT_EMPTY")


def _show(settings: Settings, reports: "list[export_pb2.ExportReport]") -> None:
    from finetree_cli.render.trainer.results.exports import show_report

    if reports and not settings.out.json:
        show_report(settings.out, reports[-1])


def _download(settings: Settings, job: "Job", output: Path) -> Path | None:
    """Download the export; return its folder."""
    from finetree_cli.errors import BadInput
    from finetree_cli.render.transfer import transfer

    try:
        with transfer(settings.out, "downloading") as on_progress:
            folders = job.download(output, on_progress=on_progress)
    except OSError as error:
        raise BadInput(f"{output}: {error.strerror or error}", remedy="give a writable folder with --output") from error
    for folder in folders.values():
        settings.out.text(str(folder)) if not settings.out.json else None
    return next(iter(folders.values()), None)
