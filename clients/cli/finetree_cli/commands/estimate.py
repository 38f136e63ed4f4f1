# SPDX-License-Identifier: Apache-2.0
"""`finetree estimate`: memory, time and cost of a run, of many, or of one by every method."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import JobFile
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.program import program_options, say_program
from finetree_cli.options.spec import (
    DataFlags,
    HardwareFlags,
    data,
    data_options,
    hardware,
    hardware_options,
    model_source,
    ownership,
    ownership_options,
)
from finetree_cli.options.types import Names, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from finetree import Client
    from finetree_api.estimator.v1 import estimator_pb2
    from finetree_api.types.v1 import run_spec_pb2

    from finetree_cli.render.chart.memory import Row

METHODS = ("full", "lora", "qlora", "prefix", "adapter")


@click.command(
    cls=Command,
    examples=(
        "finetree estimate job.yaml",
        "finetree estimate job.yaml --gpu rtx-4090 --json | jq .memory.device_bytes.high",
        "finetree estimate --model llama-3.1-8b --method lora --rank 16 --gpu a100-80gb --examples 5000 --full",
        "finetree estimate job.yaml --compare --methods lora,qlora --accelerators rtx-4090,a100-80gb --chart gpus.svg",
        "finetree estimate job.yaml --program unsloth --gpu rtx-4090",
        "finetree estimate --requests requests.jsonl --local",
    ),
)
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--model",
    metavar="NAME",
    help="A name of `finetree models list --catalogue`, a hub id (org/name), or ./FOLDER with a config.json.",
)
@click.option("--method", type=click.Choice(METHODS), help="Fine-tuning method.")
@click.option("--rank", type=Whole(), help="Rank of LoRA and QLoRA.")
@click.option("--epochs", type=float, help="Passes over the data.")
@click.option("--steps", type=Whole(), help="Optimizer steps, instead of --epochs.")
@click.option("--batch", type=Whole(), help="Rows of an optimizer step.")
@click.option("--micro-batch", type=Whole(), help="Rows of one forward pass.")
@click.option("--sequence-length", type=Whole(), help="Longest row in tokens.")
@hardware_options
@data_options
@ownership_options
@program_options
@click.option("--full", "full_view", is_flag=True, help="Also what would fit, offers, and the nearest measured runs.")
@click.option("--compare", is_flag=True, help="The run by every method on several GPUs, as a table.")
@click.option(
    "--methods", type=Names(METHODS), default=METHODS, metavar="A,B", help="Methods to compare. [default: all]"
)
@click.option(
    "--accelerators", type=Names(), metavar="A,B", help="GPUs to compare. [default: the job's and usual ones]"
)
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE", help="Draw the comparison: .svg or .png.")
@click.option(
    "--requests", metavar="FILE", help="One EstimateRunRequest as JSON a line (- for stdin), answered in order."
)
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Prices of your own (CSV).")
@click.option("--strict", is_flag=True, help="With --requests: exit with 3 when a line fails.")
@click.option("--local", is_flag=True, help="Use no server: the estimator runs in a process of its own.")
@pass_settings
def estimate(settings: Settings, /, file: str | None, **flags: Any) -> None:
    """Estimate what a run will take; flags change what FILE (a job file, or - for stdin) says.

    Without an address, and where no estimator listens, the installed one answers without a server; its answer is the
    served one.

    With --requests, each line of the file is answered by one line, {"estimate": …} or {"error": {"code", "reason",
    "message", "line"}}; a line that fails spoils no other, and the exit code is 0 unless --strict is given.
    """
    if flags["requests"] is not None:
        _answer_lines(settings, file, flags)
    elif flags["compare"]:
        _compare(settings, file, flags)
    elif flags["chart"] is not None or flags["accelerators"] is not None:
        raise BadInput("--chart and --accelerators need --compare")
    else:
        _estimate(settings, file, flags)


def _estimate(settings: Settings, file: str | None, flags: dict[str, Any]) -> None:
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.backends.estimator import engine
    from finetree_cli.jobfile.error_positions import placed

    own = {"local": flags["local"], "price_book": flags["price_book"], "model": model_folder(flags["model"])}
    with engine(settings, "EstimateRun", **own) as asked, settings.client() as client:
        job = _job(file)
        request = _request(client, job, flags)
        if flags["full_view"]:
            request.view = estimator_pb2.ESTIMATE_VIEW_FULL
        with placed(job):
            answer = asked.estimate(request)
    if settings.out.json:
        settings.out.message(answer)
        return
    from finetree_cli.render.estimator.estimate import show

    show(settings.out, answer)
    if answer.fit.verdict == estimator_pb2.FIT_VERDICT_DOES_NOT_FIT and not flags["full_view"]:
        settings.out.say("--full says what would make it fit; `finetree recommend` gives a recipe that does")


def _compare(settings: Settings, file: str | None, flags: dict[str, Any]) -> None:
    from finetree_cli.backends.estimator import engine
    from finetree_cli.compare import compare, named_accelerators
    from finetree_cli.render.estimator import compare as rendered

    write = _chart_writer(flags["chart"])
    own = {"local": flags["local"], "price_book": flags["price_book"], "model": model_folder(flags["model"])}
    with (
        engine(settings, "BatchEstimateRuns", **own) as asked,
        settings.client() as client,
    ):
        request = _request(client, _job(file), flags)
        cells = compare(request, asked, flags["methods"], named_accelerators(request, flags["accelerators"] or ()))
    failures = [cell.error for cell in cells if cell.error is not None]
    if len(failures) == len(cells):
        raise failures[0]
    if write is not None:
        write(f"{_model_name(request.spec.model)}: memory by method", rendered.rows(cells))
    if settings.out.json:
        settings.out.document(rendered.document(cells))
    else:
        rendered.show(settings.out, cells)


def _answer_lines(settings: Settings, file: str | None, flags: dict[str, Any]) -> None:
    from finetree_cli import bulk
    from finetree_cli.backends.estimator import engine

    if file is not None or flags["compare"] or flags["model"]:
        raise BadInput("--requests holds whole requests", remedy="leave the job file, --model and --compare out")
    with engine(settings, "BatchEstimateRuns", local=flags["local"], price_book=flags["price_book"]) as asked:
        bulk.answer(flags["requests"], asked, settings.out, strict=flags["strict"])


def _chart_writer(path: Path | None) -> "Callable[[str, Sequence[Row]], None] | None":
    """Writes a chart into the file, by its ending. Whether it can is found out before anything is computed."""
    if path is None:
        return None
    if path.suffix.lower() not in (".svg", ".png"):
        raise BadInput(f"--chart {path}: no kind of chart", remedy="name a file that ends in .svg or .png")

    def write(title: str, rows: "Sequence[Row]") -> None:
        from finetree_cli.render.chart.memory import memory_chart
        from finetree_cli.render.chart.png import png
        from finetree_cli.render.chart.svg import svg

        chart = memory_chart(title, rows)
        content = png(chart) if path.suffix.lower() == ".png" else svg(chart).encode()
        try:
            path.write_bytes(content)
        except OSError as error:
            raise BadInput(f"--chart {path}: {error.strerror}", reason="CHART_NOT_WRITTEN") from error

    return write


def _model_name(model: "run_spec_pb2.ModelSource") -> str:
    return model.name or model.hub.id or model.path or "model"


def _job(file: str | None) -> JobFile | None:
    from finetree_cli.jobfile import job as job_file

    return job_file.read(file) if file is not None else None


def _request(client: "Client", job: JobFile | None, flags: dict[str, Any]) -> "estimator_pb2.EstimateRunRequest":
    from finetree_api.estimator.v1 import estimator_pb2

    request = estimator_pb2.EstimateRunRequest()
    if job is not None:
        request.spec.CopyFrom(job.request.spec)
    _change_spec(request.spec, flags, job is not None)
    machine = hardware(HardwareFlags.take(flags), client)
    if machine is not None:
        request.spec.hardware.CopyFrom(machine)
    owner = ownership(flags["price"], flags["tariff"], flags["watts"], flags["currency"])
    if owner is not None:
        request.spec.ownership.CopyFrom(owner)
    _add_data(client, request, DataFlags.take(flags))
    say_program(request, flags)
    return request


def _change_spec(spec: "run_spec_pb2.RunSpec", flags: dict[str, Any], from_file: bool) -> None:
    if flags["model"]:
        spec.model.CopyFrom(model_source(flags["model"]))
    elif not from_file:
        raise BadInput("nothing to estimate", remedy="give a job file, or --model, --method and the hardware")
    if flags["method"]:
        getattr(spec, flags["method"]).SetInParent()
    method = spec.WhichOneof("method")
    if flags["rank"] is not None:
        if method not in ("lora", "qlora"):
            raise BadInput("--rank needs --method lora or qlora")
        (spec.lora if method == "lora" else spec.qlora.lora).rank = flags["rank"]
    if flags["epochs"] is not None and flags["steps"] is not None:
        raise BadInput("--epochs and --steps exclude each other", remedy="keep one of them")
    names = {
        "epochs": "epochs",
        "steps": "max_steps",
        "batch": "effective_batch_size",
        "micro_batch": "micro_batch_size",
        "sequence_length": "sequence_length",
    }
    for flag, field in names.items():
        if flags[flag] is not None:
            setattr(spec.training, field, flags[flag])


def _add_data(client: "Client", request: "estimator_pb2.EstimateRunRequest", flags: DataFlags) -> None:
    known = data(flags, client)
    if known.dataset is not None:
        request.spec.dataset.CopyFrom(known.dataset)
    elif request.spec.dataset.WhichOneof("source") == "name" and known.profile is None:
        # The estimator keeps no data: what a named dataset holds, the trainer knows.
        request.dataset_profile.CopyFrom(client.get_dataset(request.spec.dataset.name).profile)
    if known.profile is not None:
        request.dataset_profile.CopyFrom(known.profile)
    if known.evaluation is not None:
        request.spec.evaluation.MergeFrom(known.evaluation)
    if known.evaluation_profile is not None:
        request.evaluation_profile.CopyFrom(known.evaluation_profile)
