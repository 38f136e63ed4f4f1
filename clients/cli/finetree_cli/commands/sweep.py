# SPDX-License-Identifier: Apache-2.0
"""`finetree sweep`: try a job file with other settings; `finetree sweeps`: list, show, watch and cancel sweeps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.options.command import Command, Group, Settings, pass_settings
from finetree_cli.options.sweep import SweepSetting, refusals_by_option
from finetree_cli.options.types import MoneyAmount

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import sweep_pb2
    from google.type import money_pb2


@click.command(
    cls=Command,
    examples=(
        "finetree sweep job.yaml --set lora.rank=4,8,16",
        "finetree sweep job.yaml --set lora.rank=4,8 --set training.learning_rate=1e-4..5e-4 --trials 10 --max-cost 20",
        "finetree sweep job.yaml --set training.learning_rate=1e-5..1e-3 --trials 20 --halving",
        "finetree sweep job.yaml --set lora.rank=4,8,16 --price",
    ),
)
@click.argument("file")
@click.option(
    "--set",
    "parameters",
    type=SweepSetting(),
    multiple=True,
    required=True,
    metavar="PATH=VALUES",
    help="A setting of the job file with its values (4,8,16) or its range (1e-4..5e-4); may be repeated.",
)
@click.option("--trials", type=click.IntRange(1, 256), help="Most trials.  [default: a grid's combinations, else 10]")
@click.option("--search", type=click.Choice(["grid", "random"]), help="How values are chosen.")
@click.option("--metric", default="", help="What decides, such as eval_exact_match.  [default: eval_loss, else loss]")
@click.option("--halving", is_flag=True, help="Stop trials that fall behind (asynchronous successive halving).")
@click.option("--max-cost", type=MoneyAmount(), metavar="AMOUNT", help="Most that all trials may cost: 20, '0.30 EUR'.")
@click.option("--parallel", type=click.IntRange(1, 64), help="Trials at the same time.  [default: 2]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Decides what is drawn.  [default: 0]")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and train on.")
@click.option("--eval-data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and evaluate on.")
@click.option("--name", default="", help="Display name of the sweep.")
@click.option("--request-id", default="", help="Idempotency key: the same key always gives the same sweep.")
@click.option(
    "--price", is_flag=True, help="Show the trials and what they should take, and create no sweep; 3 above --max-cost."
)
@click.option("--watch/--detach", default=True, help="Follow the sweep to its end, or return once it is accepted.")
@pass_settings
def sweep(
    settings: Settings,
    /,
    *,
    file: str,
    parameters: tuple[tuple[str, Any], ...],
    trials: int | None,
    search: str | None,
    metric: str,
    halving: bool,
    max_cost: "money_pb2.Money | None",
    parallel: int | None,
    seed: int | None,
    data: Path | None,
    eval_data: Path | None,
    name: str,
    request_id: str,
    price: bool,
    watch: bool,
) -> None:
    """Train a job file with other settings, and name the best trial with its interval.

    Values with commas are a grid; a range, or more combinations than --trials, is searched at random. The whole is
    priced before it starts. The trainer runs the trials, also when this command has ended: `finetree sweeps watch`
    follows a sweep again. With --json, stdout has the sweep.
    """
    from finetree_cli.commands.train import with_model
    from finetree_cli.jobfile.error_positions import with_positions
    from finetree_cli.jobfile.job import read_job
    from finetree_cli.render.trainer.results.sweeps import show_price, show_priced
    from finetree_cli.uploads import upload_job_data

    job, paths = read_job(file), [path for path, _ in parameters]
    asked: dict[str, Any] = {"trials": trials, "search": search or 0, "seed": seed, "metric": metric}
    asked |= {"halving": halving or None, "max_cost": max_cost, "max_parallel": parallel}
    with settings.client() as client:
        upload_job_data(settings, client, job, {"dataset": data, "evaluation.dataset": eval_data})

        def validate() -> "sweep_pb2.ValidateSweepResponse":
            with with_positions(job), refusals_by_option(paths):
                return client.validate_sweep(job.template, dict(parameters), **asked)

        priced = with_model(settings, client, job, validate, timeout=None).sweep
        if price:
            if settings.out.json:
                settings.out.message(priced)
            else:
                show_priced(settings.out, priced)
            _require_affordable(priced)
            return
        show_price(settings.out, priced)
        with with_positions(job), refusals_by_option(paths):
            created = client.create_sweep(
                job.template, dict(parameters), display_name=name, request_id=request_id, **asked
            )
        settings.out.say(f"sweep {created.name}")
        if watch:
            _follow(settings, client, created.name)
        elif settings.out.json:
            settings.out.message(created)
        else:
            settings.out.text(created.name)


def _require_affordable(priced: "sweep_pb2.Sweep") -> None:
    """Raise GateFailed where a sweep should cost more than its limit: it would be refused."""
    from finetree.money import to_float

    from finetree_cli.errors import GateFailed
    from finetree_cli.render import units

    limit, cost = priced.template.max_cost, priced.estimate.cost
    if priced.template.HasField("max_cost") and cost.amount.expected > to_float(limit):
        text = f"the sweep should cost {units.money_range(cost)}, more than --max-cost {units.money(limit)}"
        remedy = "take fewer trials, --halving, or a larger --max-cost"
        raise GateFailed(text, remedy=remedy, reason="SWEEP_TOO_EXPENSIVE", reported=True)


@click.group(cls=Group, examples=("finetree sweeps list", "finetree sweeps show SWEEP"))
def sweeps() -> None:
    """List, show, follow and cancel sweeps; `finetree sweep` creates one."""


@sweeps.command("list", examples=("finetree sweeps list", "finetree sweeps list --json | jq '.sweeps[].name'"))
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Largest number of sweeps.")
@pass_settings
def list_sweeps(settings: Settings, limit: int) -> None:
    """List sweeps, newest first."""
    from finetree_cli.output import as_dict
    from finetree_cli.render.trainer.results.sweeps import show_list

    with settings.client() as client:
        found = list(client.list_sweeps(limit=limit))
    if settings.out.json:
        settings.out.document({"sweeps": [as_dict(item) for item in found]})
    else:
        show_list(settings.out, found)


@sweeps.command(examples=("finetree sweeps show SWEEP", "finetree sweeps show SWEEP --json | jq '.trials[].value'"))
@click.argument("sweep_name", metavar="SWEEP")
@pass_settings
def show(settings: Settings, sweep_name: str) -> None:
    """Show a sweep: the best trial first, then all of them."""
    with settings.client() as client:
        _show(settings, client.get_sweep(sweep_name))


@sweeps.command(examples=("finetree sweeps watch SWEEP",))
@click.argument("sweep_name", metavar="SWEEP")
@pass_settings
def watch(settings: Settings, sweep_name: str) -> None:
    """Follow a sweep to its end. Ctrl-C stops watching, not the sweep."""
    with settings.client() as client:
        _follow(settings, client, sweep_name)


@sweeps.command(examples=("finetree sweeps cancel SWEEP",))
@click.argument("sweep_name", metavar="SWEEP")
@pass_settings
def cancel(settings: Settings, sweep_name: str) -> None:
    """Stop a sweep: no trial is started any more, and those that run save a checkpoint and are cancelled."""
    with settings.client() as client:
        _show(settings, client.cancel_sweep(sweep_name))


def _show(settings: Settings, found: "sweep_pb2.Sweep") -> None:
    from finetree_cli.render.trainer.results.sweeps import show_sweep

    if settings.out.json:
        settings.out.message(found)
    else:
        show_sweep(settings.out, found)


def _follow(settings: Settings, client: "Client", name: str) -> None:
    """Show what becomes of the trials, and at the end the sweep.

    Raises:
        StillRunning: the user pressed Ctrl-C; the sweep goes on.
        JobFailed: no trial has succeeded.
    """
    from finetree_api.trainer.v1 import sweep_pb2

    from finetree_cli.errors import JobFailed, StillRunning
    from finetree_cli.output import short_name
    from finetree_cli.render.trainer.results.sweeps import Progress

    progress, found = Progress(settings.out), sweep_pb2.Sweep()
    short = short_name(name)
    try:
        for found in client.watch_sweep(name):
            progress.show(found)
    except KeyboardInterrupt:
        remedy = f"`finetree sweeps watch {short}` follows it again, `finetree sweeps cancel {short}` stops it"
        raise StillRunning("detached; the sweep goes on", remedy=remedy, reason="DETACHED") from None
    _show(settings, found)
    if found.state != sweep_pb2.SWEEP_STATE_SUCCEEDED:
        raise JobFailed(f"sweep {short}: {found.state_reason.text}", reason=found.state_reason.code)
    if not settings.out.json:
        job = short_name(found.trials[found.best_trial - 1].job) if found.best_trial else ""
        settings.out.say(f"`finetree jobs download {job}` downloads the best one" if job else "")
