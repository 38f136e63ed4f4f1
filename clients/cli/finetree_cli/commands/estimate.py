# SPDX-License-Identifier: Apache-2.0
"""`finetree estimate`: memory, time and cost of a run, of many runs, or of one with every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import JobFile, read_job
from finetree_cli.options.command import Command, Settings, pass_settings, take_flags
from finetree_cli.options.local_rows import add_local_profiles
from finetree_cli.options.measured_rates import add_measured_rates, may_be_measured
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.program import ProgramFlags, program_options, set_program
from finetree_cli.options.run_settings import RunFlags, run_options, set_run
from finetree_cli.options.spec import (
    DataFlags,
    HardwareFlags,
    OwnershipFlags,
    data,
    data_options,
    hardware,
    hardware_options,
    model_source,
    ownership,
    ownership_options,
)
from finetree_cli.options.types import METHODS, Names

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.types.v1 import model_pb2, run_spec_pb2

    from finetree_cli.render.chart.memory import Row


@dataclass(frozen=True, slots=True)
class EstimateFlags:
    """Options of `finetree estimate`; None is not given."""

    hardware: HardwareFlags
    data: DataFlags
    ownership: OwnershipFlags
    program: ProgramFlags
    run: RunFlags
    model: str | None
    method: str | None
    full_view: bool
    compare: bool
    methods: tuple[str, ...]
    gpus: tuple[str, ...] | None
    chart: Path | None
    requests: str | None
    price_book: Path | None
    strict: bool
    local: bool


@click.command(
    cls=Command,
    examples=(
        "finetree estimate job.yaml",
        "finetree estimate job.yaml --gpu rtx-4090 --json | jq .memory.device_bytes.high",
        "finetree estimate --model llama-3.1-8b --method lora --gpu l4 --examples 5000 --tokens-per-example 400 --full",
        "finetree estimate --model llama-3.1-70b --method lora --gpu h100 --devices 8 --sharding fsdp",
        "finetree estimate job.yaml --compare --methods lora,qlora --gpus rtx-4090,a100-80gb --chart gpus.svg",
        "finetree estimate job.yaml --program unsloth --gpu rtx-4090",
        "finetree estimate job.yaml --checkpointing off --optimizer adamw-8bit",
        "finetree estimate --requests requests.jsonl --local",
    ),
    sections={
        "Run": ("model", "method", RunFlags),
        "Hardware": (HardwareFlags,),
        "Data": (DataFlags,),
        "Price": (OwnershipFlags, "price_book"),
        "Training program, where it is not this suite's": (ProgramFlags,),
        "Comparison": ("compare", "methods", "gpus", "chart"),
    },
)
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--model",
    metavar="NAME",
    help="A name of `finetree models list --catalog`, a hub id (org/name), or ./FOLDER with a config.json.",
)
@click.option("--method", type=click.Choice(METHODS), help="Fine-tuning method.")
@run_options
@hardware_options
@data_options
@ownership_options
@program_options
@click.option(
    "--full",
    "full_view",
    is_flag=True,
    help="Also changes that would fit, offers of GPUs, and the nearest measured runs.",
)
@click.option("--compare", is_flag=True, help="Compare all methods on several GPUs, as a table.")
@click.option(
    "--methods", type=Names(METHODS), default=METHODS, metavar="A,B", help="With --compare: methods. [default: all]"
)
@click.option(
    "--gpus",
    type=Names(),
    metavar="A,B",
    help="With --compare: GPUs. [default: the job's own and four common ones]",
)
@click.option(
    "--chart", type=click.Path(path_type=Path), metavar="FILE", help="With --compare: write a chart (.svg or .png)."
)
@click.option(
    "--requests",
    metavar="FILE",
    help="File with one EstimateRunRequest as JSON on each line (- for stdin); each gets one line of answer.",
)
@click.option(
    "--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV); needs --local."
)
@click.option("--strict", is_flag=True, help="With --requests: exit with 3 if a line fails.")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@pass_settings
def estimate(settings: Settings, /, file: str | None, **flags: Any) -> None:
    """Estimate memory, time and cost of a run.

    Options override FILE (a job file, or - for stdin). Without an address, and if no estimator is running, the
    installed estimator answers in a child process; its answer is the server's. A job file that names the trainer's own
    CPU, as `finetree recommend --this-machine` writes it, is estimated with the rates that the trainer measured; with
    --local the CPU's speed is assumed.

    With --requests, each line of the file is answered by one line, {"estimate": …} or {"error": {"code", "reason",
    "message", "line"}}; a line that fails does not affect the others, and the exit code is 0 unless --strict is given.
    """
    given = EstimateFlags(
        hardware=take_flags(HardwareFlags, flags),
        data=take_flags(DataFlags, flags),
        ownership=take_flags(OwnershipFlags, flags),
        program=take_flags(ProgramFlags, flags),
        run=take_flags(RunFlags, flags),
        **flags,
    )
    if given.requests is not None:
        _answer_lines(settings, file, given)
    elif given.compare:
        _compare(settings, file, given)
    elif given.chart is not None or given.gpus is not None:
        remedy = "add --compare; the number of GPUs is --devices N"
        raise BadInput("--chart and --gpus need --compare", remedy=remedy)
    else:
        _estimate(settings, file, given)


def _estimate(settings: Settings, file: str | None, flags: EstimateFlags) -> None:
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.types.v1 import estimate_summary_pb2

    from finetree_cli.backends.discovery import is_missing
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.jobfile.error_positions import with_positions
    from finetree_cli.render.estimator.estimate import show

    folder = model_folder(flags.model)
    with (
        open_estimator(
            settings, "EstimateRun", local=flags.local, price_book=flags.price_book, model=folder
        ) as estimator,
        settings.client() as client,
    ):
        job = read_job(file) if file is not None else None
        request = _request(settings, client, job, flags)
        if not flags.local and may_be_measured(request) and not is_missing("trainer", settings):
            add_measured_rates(request, client, settings.out)
        if flags.full_view:
            request.view = estimate_pb2.ESTIMATE_VIEW_FULL
        with with_positions(job):
            answer = estimator.estimate(request)
    if settings.out.json:
        settings.out.message(answer)
        return
    show(settings.out, answer, click.get_current_context().command)
    if answer.fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT and not flags.full_view:
        settings.out.say("--full lists changes that would fit; `finetree recommend` gives a recipe that fits")


def _compare(settings: Settings, file: str | None, flags: EstimateFlags) -> None:
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.compare import accelerators_of, compare
    from finetree_cli.render.estimator import compare as rendered

    write = _chart_writer(flags.chart)
    folder = model_folder(flags.model)
    with (
        open_estimator(
            settings, "BatchEstimateRuns", local=flags.local, price_book=flags.price_book, model=folder
        ) as estimator,
        settings.client() as client,
    ):
        request = _request(settings, client, read_job(file) if file is not None else None, flags)
        accelerators = accelerators_of(request, flags.gpus or ())
        cells = compare(request, estimator, methods=flags.methods, accelerators=accelerators)
    failures = [cell.error for cell in cells if cell.error is not None]
    if len(failures) == len(cells):
        raise failures[0]
    if write is not None:
        write(f"{_model_name(request.spec.model)}: memory by method", rendered.rows(cells))
    if settings.out.json:
        settings.out.document(rendered.document(cells))
    else:
        rendered.show(settings.out, cells, click.get_current_context().command)


def _answer_lines(settings: Settings, file: str | None, flags: EstimateFlags) -> None:
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.bulk import answer_lines

    if file is not None or flags.compare or flags.model:
        raise BadInput("--requests excludes a job file, --model and --compare", remedy="each line is a whole request")
    with open_estimator(settings, "BatchEstimateRuns", local=flags.local, price_book=flags.price_book) as estimator:
        answer_lines(flags.requests or "", estimator, settings.out, strict=flags.strict)


def _chart_writer(path: Path | None) -> "Callable[[str, Sequence[Row]], None] | None":
    """Return a function that writes a chart, by the file's ending; refuse another ending before any computation."""
    if path is None:
        return None
    if path.suffix.lower() not in (".svg", ".png"):
        raise BadInput(f"--chart {path}: unknown kind of chart", remedy="name a file that ends in .svg or .png")

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


def _model_name(model: "model_pb2.ModelSource") -> str:
    return model.name or model.hub.id or model.path or "model"


def _request(
    settings: Settings, client: "Client", job: JobFile | None, flags: EstimateFlags
) -> "estimate_pb2.EstimateRunRequest":
    from finetree_api.estimator.v1 import estimate_pb2

    request = estimate_pb2.EstimateRunRequest()
    if job is not None:
        request.spec.CopyFrom(job.spec)
    _change_spec(request.spec, flags, from_file=job is not None)
    machine = hardware(flags.hardware, client, base=job.spec.hardware if job is not None else None)
    if machine is not None:
        request.spec.hardware.CopyFrom(machine.hardware)
        if machine.matrix_rates is not None:
            request.matrix_rates.CopyFrom(machine.matrix_rates)
    owner = ownership(flags.ownership)
    if owner is not None:
        request.spec.ownership.CopyFrom(owner)
    if job is not None and flags.data.dataset is None and flags.data.examples is None:
        add_local_profiles(job, settings.out, request)
    _add_data(client, request, flags.data)
    set_program(request.spec, flags.program)
    return request


def _change_spec(spec: "run_spec_pb2.RunSpec", flags: EstimateFlags, *, from_file: bool) -> None:
    if flags.model:
        spec.model.CopyFrom(model_source(flags.model))
    elif not from_file:
        raise BadInput("nothing to estimate", remedy="give a job file, or --model, --method and the hardware")
    if flags.method:
        getattr(spec, flags.method).SetInParent()
    set_run(spec, flags.run)


def _add_data(client: "Client", request: "estimate_pb2.EstimateRunRequest", flags: DataFlags) -> None:
    known = data(flags, client, request.spec.dataset.profile)
    if known.dataset is not None:
        request.spec.dataset.CopyFrom(known.dataset)
    elif request.spec.dataset.WhichOneof("source") == "name" and known.profile is None:
        # The estimator has no data: the trainer knows a named dataset's rows and tokens.
        request.dataset_profile.CopyFrom(client.get_dataset(request.spec.dataset.name).profile)
    if known.profile is not None:
        request.dataset_profile.CopyFrom(known.profile)
    if known.evaluation is not None:
        request.spec.evaluation.MergeFrom(known.evaluation)
    if known.evaluation_profile is not None:
        request.evaluation_profile.CopyFrom(known.evaluation_profile)
