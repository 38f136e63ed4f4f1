# SPDX-License-Identifier: Apache-2.0
"""The three services and the console as child processes on loopback: for `finetree up`, the demo and tests."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from finetree_cli.backends import service_logs
from finetree_cli.errors import NotAvailable

SERVICES = ("estimator", "recommender", "trainer")
"""Names in the order of starting: the other two call the estimator."""
CONSOLE = "console"
"""Name of the program that serves HTTP in front of the three."""
ANY_PORTS: Mapping[str, int] = dict.fromkeys(SERVICES, 0)
"""Ports chosen by the operating system."""
START_SECONDS = 30.0
"""Longest wait until a service is ready; on an idle machine it takes less than one second."""
STOP_SECONDS = 25.0
"""Longest time from SIGTERM to SIGKILL: a service gives running calls 10 s and its shutdown hooks 5 s."""
_POLL_SECONDS = 0.02
_ERROR_LINE = re.compile(r"^[A-Z][A-Z_]+: .+")


def default_data_dir() -> Path:
    """Return the default data folder: $XDG_DATA_HOME/finetree, else ~/.local/share/finetree."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "finetree"


@dataclass(slots=True)
class Child:
    """A started service."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ready_file: Path
    address: str = ""
    """Empty until it is ready."""

    def error_line(self) -> str:
        """Return the log's last line of the form "REASON: message"; empty without one."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line for line in reversed(lines[-20:]) if _ERROR_LINE.match(line)), "")
        return ""


@dataclass(slots=True)
class Suite:
    """Starts the services on entering, stops them on leaving.

    Raises:
        NotAvailable: A package is missing, a port is taken, or a service does not start.
    """

    data_dir: Path
    ports: Mapping[str, int] = field(default_factory=lambda: ANY_PORTS)
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Additional flags by service."""
    http: str = ""
    """HOST:PORT of the console, which is started last; empty: none is."""
    access_dir: Path | None = None
    """Folder of the access file of the services; None: they take every caller."""
    children: dict[str, Child] = field(default_factory=dict)
    _service_token: Path | None = None
    _run_dir: "tempfile.TemporaryDirectory[str] | None" = None

    @property
    def addresses(self) -> dict[str, str]:
        """Return the address by service, the console left out."""
        return {name: child.address for name, child in self.children.items() if name != CONSOLE}

    def token(self) -> str | None:
        """Return the services' token, which may read every project; None where none is asked for."""
        return None if self._service_token is None else self._service_token.read_text(encoding="utf-8").strip()

    def start(self) -> None:
        """Start all three, and the console where it is asked for, and wait until each accepts calls."""
        _refuse_missing_packages((*SERVICES, CONSOLE) if self.http else SERVICES)
        _refuse_taken_ports(self.ports)
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.access_dir is not None:
            from finetree_cli.backends.access.service_token import service_token

            self._service_token = service_token(self.access_dir, self.data_dir)
        self._run_dir = tempfile.TemporaryDirectory(prefix="finetree-")
        try:
            self._launch("estimator")
            self._await("estimator")
            for name in ("recommender", "trainer"):
                self._launch(name)
            for name in ("recommender", "trainer"):
                self._await(name)
            if self.http:
                self._launch(CONSOLE)
                self._await(CONSOLE)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all: SIGTERM, and SIGKILL after `STOP_SECONDS`. May be called again."""
        running = [child.process for child in self.children.values() if child.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        for child in self.children.values():
            if child.process.stdin is not None:
                child.process.stdin.close()
        if self._run_dir is not None:
            self._run_dir.cleanup()
            self._run_dir = None

    def ended(self) -> Child | None:
        """Return a service that has ended by itself, if there is one."""
        return next((child for child in self.children.values() if child.process.poll() is not None), None)

    def rotate_logs(self) -> None:
        """Keep the services' logs at a bounded size; to be called now and then."""
        for child in self.children.values():
            service_logs.rotate(child.log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, name: str) -> None:
        log = self.data_dir / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        assert self._run_dir is not None  # noqa: S101 - `start` made it
        ready = Path(self._run_dir.name) / f"{name}.ready"
        command = [sys.executable, "-m", f"finetree_{name}", *self._flags(name, ready)]
        with log.open("ab") as stream:
            process = _spawn(command, self._environment(), stream)
        self.children[name] = Child(name, process, log, ready)

    def _flags(self, name: str, ready: Path) -> list[str]:
        if name == CONSOLE:
            upstream = [word for each, address in self.addresses.items() for word in (f"--{each}-address", address)]
            return ["--address", self.http, "--ready-file", str(ready), "--stop-with-stdin", *upstream]
        flags = ["--address", f"127.0.0.1:{self.ports.get(name, 0)}", "--ready-file", str(ready), "--stop-with-stdin"]
        if name == "trainer":
            flags += ["--data-dir", str(self.data_dir / "trainer")]
        if name == "estimator":
            flags += ["--state-dir", str(self.data_dir / "estimator")]
        if name != "estimator":
            flags += ["--estimator-address", self.children["estimator"].address]
        if self.access_dir is not None:
            flags += ["--access-dir", str(self.access_dir)]
            if name != "estimator":
                flags += ["--service-token-file", str(self._service_token)]
        return [*flags, *self.extra.get(name, ())]

    def _environment(self) -> dict[str, str]:
        """Return this process's environment without the variables for clients: a service must not use them."""
        from finetree.config.keys import KEYS
        from finetree.config.settings import PROFILE

        meant_for_clients = {PROFILE, *(key.variable for key in KEYS.values())}
        return {key: value for key, value in os.environ.items() if key not in meant_for_clients}

    def _await(self, name: str) -> None:
        """Wait for a service's ready file, which appears complete."""
        child = self.children[name]
        deadline = time.monotonic() + START_SECONDS
        while not child.ready_file.exists():
            if child.process.poll() is not None:
                raise _not_started(child, child.error_line() or f"ended with exit code {child.process.returncode}")
            if time.monotonic() > deadline:
                raise _not_started(child, f"not ready after {START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        child.address = json.loads(child.ready_file.read_text(encoding="utf-8"))["address"]


@contextlib.contextmanager
def running(data_dir: Path, ports: Mapping[str, int] = ANY_PORTS) -> Iterator[Suite]:
    """Run a suite while the block runs."""
    with Suite(data_dir, ports) as suite:
        yield suite


def _spawn(command: list[str], environment: dict[str, str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a service in a session of its own, so that Ctrl-C reaches only this process, which then stops it.

    Its standard input is a pipe that only this process holds open: if this process is killed, the service stops.
    """
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _not_started(child: Child, text: str) -> NotAvailable:
    return NotAvailable(
        f"the {child.name} did not start: {text}", remedy=f"its log is {child.log}", reason="SERVICE_NOT_STARTED"
    )


def _refuse_missing_packages(names: tuple[str, ...]) -> None:
    missing = [name for name in names if importlib.util.find_spec(f"finetree_{name}") is None]
    if missing:
        raise NotAvailable(
            f"not installed: {', '.join(f'finetree-{name}' for name in missing)}",
            remedy="pip install 'finetree-cli[suite]'",
            reason="SUITE_NOT_INSTALLED",
        )


def _refuse_taken_ports(ports: Mapping[str, int]) -> None:
    """Refuse a port in use before anything starts; a service refuses too if the port is taken meanwhile."""
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                raise NotAvailable(
                    f"port {port} of the {name} is in use: {getattr(error, 'strerror', None) or error}",
                    remedy="stop the program that uses it, or run `finetree up --ports auto`",
                    reason="PORT_TAKEN",
                ) from error
