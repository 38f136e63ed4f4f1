# SPDX-License-Identifier: Apache-2.0
"""`finetree up`: the three services on loopback, until a signal."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import NotAvailable
from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_cli.backends.suite import Suite
    from finetree_cli.sinks.config import SinkConfig

POLL_SECONDS = 0.5


class Ports(click.ParamType[Mapping[str, int]]):
    """The word "auto", or the ports of recommender, estimator and trainer."""

    name = "ports"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mapping[str, int]:
        """Return the port by service."""
        from finetree_cli.backends.suite import ANY_PORTS

        if isinstance(value, Mapping):
            return value
        if value == "auto":
            return ANY_PORTS
        numbers = [int(part) for part in str(value).split(",") if part.isdecimal() and 0 < int(part) < 65536]
        if len(numbers) != 3 or len(set(numbers)) != 3 or len(numbers) != str(value).count(",") + 1:
            self.fail(f"{value!r} is neither 'auto' nor three different ports such as 50051,50052,50053", param, ctx)
        return dict(zip(("recommender", "estimator", "trainer"), numbers, strict=True))


@click.command(
    cls=Command,
    examples=("finetree up", "finetree up --http 127.0.0.1:8080", "finetree up --ports auto --json"),
)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for jobs and data.")
@click.option(
    "--ports",
    type=Ports(),
    default="50051,50052,50053",
    show_default=True,
    metavar="auto|R,E,T",
    help="Ports of recommender, estimator and trainer on 127.0.0.1.",
)
@click.option(
    "--http", default="", metavar="HOST:PORT", help="Also serve JSON over HTTP there, such as 127.0.0.1:8080."
)
@click.option(
    "--sinks", "sinks_file", default="", metavar="FILE", help="Also deliver to the sinks of FILE: see `finetree sinks`."
)
@click.option(
    "--access-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Answer only callers with a token of the access file there: see `finetree tokens`.",
)
@click.option(
    "--cpu-slots",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    metavar="N",
    help="Jobs that may train on the CPU at once; each gets an Nth of the cores, and what memory is left.",
)
@click.option(
    "--audit-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep logs there of who did what: see docs/audit.md. Default: beside the access file, where there is one.",
)
@click.option(
    "--audit",
    type=click.Choice(("auto", "changes", "all", "off")),
    help="Which calls those logs have. Default: changes and refusals, where there is a folder for them.",
)
@click.option("--audit-required", is_flag=True, help="Refuse changes while those logs cannot be written.")
@click.option(
    "--limits-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Limits of principals and projects: see docs/limits.md.",
)
@pass_settings
def up(
    settings: Settings,
    /,
    *,
    data_dir: Path | None,
    ports: Mapping[str, int],
    http: str,
    sinks_file: str,
    access_dir: Path | None,
    cpu_slots: int,
    audit_dir: Path | None,
    audit: str | None,
    audit_required: bool,
    limits_file: Path | None,
) -> None:
    """Start the three services on this machine.

    A job on the CPU is estimated for, and runs with, the cores of one slot: with --cpu-slots 2 two jobs run at once,
    each on half of the cores and bound to them, and each takes about twice as long as it would alone on all of them. A
    job whose memory is not free waits, and says for what (`finetree capacity`, `finetree jobs show JOB`).

    Ctrl-C stops them. Whoever is on this machine may do everything, unless --access-dir is given. The default data
    folder is $XDG_DATA_HOME/finetree, else ~/.local/share/finetree. With --json,
    stdout has one line once all are ready: {"services": [{"name", "address", "pid", "log"}], "data_dir"}.
    """
    from finetree_cli.backends.suite import SERVICES, Suite, default_data_dir

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    folder = (data_dir or default_data_dir()).absolute()
    configs = _read_sinks(sinks_file)
    access = None if access_dir is None else access_dir.absolute()
    shared = service_flags(audit_dir, audit, limits_file, audit_required=audit_required)
    extra = dict.fromkeys(SERVICES, shared) | {"trainer": (*shared, "--cpu-slots", str(cpu_slots))}
    started = Suite(folder, ports, extra=extra, http=http, access_dir=access)
    with started as suite, _delivering(settings, configs, suite):
        _announce(settings, suite)
        while not stop.wait(POLL_SECONDS):
            suite.rotate_logs()
            child = suite.ended()
            if child is not None:
                text = f"the {child.name} ended with exit code {child.process.returncode}"
                raise NotAvailable(text, remedy=f"its log is {child.log}", reason="SERVICE_ENDED")
        settings.out.say("stopping; running jobs continue with the next `finetree up`")
    settings.out.say("stopped")


def service_flags(
    audit_dir: Path | None, audit: str | None, limits_file: Path | None, *, audit_required: bool
) -> tuple[str, ...]:
    """Return the flags that each service gets as it has them; what is not given here, its environment may say."""
    flags: list[str] = []
    if audit_dir is not None:
        flags += ["--audit-dir", str(audit_dir.absolute())]
    if audit is not None:
        flags += ["--audit", audit]
    if audit_required:
        flags.append("--audit-required")
    if limits_file is not None:
        flags += ["--limits-file", str(limits_file.absolute())]
    return tuple(flags)


def _read_sinks(file: str) -> "list[SinkConfig]":
    """Read the sinks before anything starts."""
    if not file:
        return []
    from finetree_cli.sinks.config import read_sinks

    return read_sinks(file)


@contextlib.contextmanager
def _delivering(settings: Settings, configs: "list[SinkConfig]", suite: "Suite") -> Iterator[None]:
    """Deliver to the sinks while the services run."""
    if not configs:
        yield
        return
    from finetree import Client

    from finetree_cli.sinks.run import delivering

    with (
        Client(trainer_address=suite.addresses["trainer"], project=settings.project, token=suite.token()) as client,
        delivering(configs, client, suite.data_dir / "sinks", settings.out.say),
    ):
        settings.out.say(f"{'sinks':12} {', '.join(config.name for config in configs)}")
        yield


def _announce(settings: Settings, suite: "Suite") -> None:
    """Print one line for each service; with --json, one object on stdout."""
    from finetree_cli.backends.discovery import DEFAULT_PORTS
    from finetree_cli.backends.suite import CONSOLE

    out = settings.out
    for child in suite.children.values():
        out.say(f"{child.name:12} {child.address:22} pid {child.process.pid}, log {child.log}")
    if out.json:
        services = [
            {"name": child.name, "address": child.address, "pid": child.process.pid, "log": str(child.log)}
            for child in suite.children.values()
        ]
        out.line({"services": services, "data_dir": str(suite.data_dir)})
    if suite.addresses != {name: f"127.0.0.1:{port}" for name, port in DEFAULT_PORTS.items()}:
        flags = " ".join(f"--{name} {address}" for name, address in suite.addresses.items())
        out.say(f"options for the other commands: {flags}")
    if CONSOLE in suite.children:
        address = suite.children[CONSOLE].address
        out.say(f"HTTP: curl http://{address}/trainer/v1/GetServerInfo; http://{address}/openapi.json lists all paths")
    if suite.access_dir is None:
        out.say("no tokens are asked for: whoever is on this machine may do everything; --access-dir changes that")
    out.say("ready; Ctrl-C stops all of them")
