# SPDX-License-Identifier: Apache-2.0
"""`finetree sinks`: bring trackers and webhooks up to the logs of jobs, and tell how far they are."""

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed, NotAvailable
from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_cli.sinks.config import SinkConfig

_file = click.argument("file", metavar="FILE")
_state_dir = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the cursors.  [default: sinks in the data folder of `finetree up`]",
)


@click.group(
    cls=Group,
    examples=(
        "finetree sinks run sinks.yaml",
        "finetree sinks status sinks.yaml --json | jq '.sinks[] | {name, behind}'",
        "finetree sinks verify sinks.yaml tracker JOB",
    ),
)
def sinks() -> None:
    """Bring MLflow, W&B, TensorBoard and webhooks up to the logs of jobs.

    A sink is a cursor behind each job's log: it delivers what the log says, in its order, also after weeks in which
    the target was down, and a job never waits for it. docs/sinks.md has the file.
    """


@sinks.command(
    examples=("finetree sinks run sinks.yaml", "finetree sinks run sinks.yaml --once && echo everything is delivered")
)
@_file
@_state_dir
@click.option("--once", is_flag=True, help="Deliver what there is now, then end; exit code 3 where something is left.")
@click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="How far the sinks are, for Prometheus' node_exporter.  [default: sinks.prom beside the cursors]",
)
@pass_settings
def run(settings: Settings, file: str, state_dir: Path | None, once: bool, metrics_file: Path | None) -> None:
    """Deliver to the sinks of FILE until a signal."""
    from finetree_cli.sinks.config import read_sinks
    from finetree_cli.sinks.run import deliver_once, delivering

    configs, folder = read_sinks(file), _folder(state_dir)
    with settings.client() as client:
        if once:
            left = deliver_once(configs, client, folder, settings.out.say, metrics=metrics_file)
            if settings.out.json:
                settings.out.document({"incomplete": left})
            if left:
                names = ", ".join(left)
                text = f"not everything is delivered: {names}"
                raise GateFailed(text, remedy=f"finetree sinks status {file} says why", reason="SINKS_BEHIND")
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with delivering(configs, client, folder, settings.out.say, metrics=metrics_file):
            settings.out.say(f"delivering to {', '.join(config.name for config in configs)}; Ctrl-C stops")
            stop.wait()
        settings.out.say("stopped; the next run goes on where this one ended")


@sinks.command(examples=("finetree sinks status sinks.yaml",))
@_file
@_state_dir
@pass_settings
def status(settings: Settings, file: str, state_dir: Path | None) -> None:
    """Tell how far each sink of FILE is, and what stops it; works while `run` does, and without a trainer."""
    from finetree_cli.sinks.config import read_sinks
    from finetree_cli.sinks.cursors import FILE, Cursors

    configs, folder = read_sinks(file), _folder(state_dir)
    if not (folder / FILE).is_file():
        raise BadInput("no sink has run with these cursors", remedy=f"finetree sinks run {file}", reason="NO_CURSORS")
    with Cursors(folder, read_only=True) as cursors:
        found = [_state(config, cursors) for config in configs]
    if settings.out.json:
        settings.out.document({"sinks": found})
        return
    for sink in found:
        lag = f"{sink['behind']} events behind in {sink['jobs_behind']} jobs" if sink["behind"] else "has everything"
        settings.out.text(f"{sink['name']} ({sink['kind']}): {lag}")
        if sink["error"]:
            settings.out.text(f"  {sink['error']}; tried again in {sink['retry_seconds']:.0f} s")
        for job in sink["refused"]:
            settings.out.text(f"  {job['job']}: {job['error']}")
        if sink["lost"]:
            settings.out.text(f"  {sink['lost']} events were no longer kept when they were to be delivered")


@sinks.command(examples=("finetree sinks verify sinks.yaml tracker JOB",))
@_file
@click.argument("name")
@click.argument("job")
@_state_dir
@pass_settings
def verify(settings: Settings, file: str, name: str, job: str, state_dir: Path | None) -> None:
    """Compare what the sink NAME holds of JOB with the job's log; exit code 3 where they differ."""
    from finetree_cli.sinks.cursors import Cursors
    from finetree_cli.sinks.delivery import RefusedError, UnreachableError
    from finetree_cli.sinks.pump import log_of

    config = _named(file, name)
    with settings.client() as client, Cursors(_folder(state_dir), read_only=True) as cursors:
        found = client.get_job(job)
        cursor = cursors.get(name, found.uid)
        found.last_seq = min(found.last_seq, cursor.seq) if cursor else 0
        pages = log_of(client, found, config.sink.kinds, after_seq=max(0, found.oldest_seq - 1))
        try:
            events = [event for page in pages for event in page]
            result = config.sink.compare(found, events, cursor.remote if cursor else "")
        except UnreachableError as error:
            raise NotAvailable(f"{name} {error}", reason="SINK_UNREACHABLE") from error
        except RefusedError as error:
            remedy = f"finetree sinks run {file} delivers it"
            raise GateFailed(f"{name} {error}", remedy=remedy, reason="SINK_DIFFERS") from error
    if result is None:
        text = f"a {config.kind} cannot be asked what it holds"
        raise BadInput(text, remedy="its cursor is shown by `finetree sinks status`", reason="SINK_NOT_READABLE")
    shown = {"expected": result.expected, "missing": result.missing, "surplus": result.surplus}
    if settings.out.json:
        settings.out.document(shown)
    else:
        settings.out.text(f"{result.expected} values in the log, {result.missing} missing, {result.surplus} too many")
    if result.missing or result.surplus:
        raise GateFailed(f"{name} differs from the log", reason="SINK_DIFFERS", reported=True)


@sinks.command(examples=("finetree sinks skip sinks.yaml alerts JOB",))
@_file
@click.argument("name")
@click.argument("job")
@_state_dir
@pass_settings
def skip(settings: Settings, file: str, name: str, job: str, state_dir: Path | None) -> None:
    """Give up the next event of JOB that the sink NAME refuses; `run` must be stopped. The loss is counted."""
    from finetree_cli.sinks.cursors import Cursors

    config = _named(file, name)
    with Cursors(_folder(state_dir)) as cursors:
        cursor = cursors.get(config.name, job)
        if cursor is None or not cursor.error:
            text = f"{name} does not refuse this job"
            raise BadInput(text, remedy=f"finetree sinks status {file}", reason="NOTHING_REFUSED")
        cursors.skip(cursor, cursor.seq + 1, lost=1)
    settings.out.say(f"{name}: event {cursor.seq + 1} is skipped")


def _folder(given: Path | None) -> Path:
    from finetree_cli.backends.suite import default_data_dir

    return (given or default_data_dir() / "sinks").absolute()


def _named(file: str, name: str) -> "SinkConfig":
    from finetree_cli.sinks.config import read_sinks

    configs = {config.name: config for config in read_sinks(file)}
    if name not in configs:
        raise BadInput(f"{file} has no sink {name!r}", remedy=f"it has {', '.join(configs)}", reason="NO_SUCH_SINK")
    return configs[name]


def _state(config: "SinkConfig", cursors: Any) -> dict[str, Any]:
    pending, health = cursors.pending(config.name), cursors.health(config.name)
    behind = [cursor for cursor in pending if cursor.last_seq > cursor.seq]
    return {
        "name": config.name,
        "kind": config.kind,
        "behind": sum(cursor.last_seq - cursor.seq for cursor in behind),
        "jobs_behind": len(behind),
        "error": health.error,
        "retry_seconds": max(0.0, round(health.next_try - time.time(), 1)),
        "delivered_time": health.delivered_time,
        "refused": [{"job": c.job, "seq": c.seq + 1, "error": c.error} for c in pending if c.error],
        "lost": cursors.lost(config.name),
    }
