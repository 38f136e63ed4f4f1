# SPDX-License-Identifier: Apache-2.0
"""An S3 server of the tests' own, on loopback: SeaweedFS from a wheel, started, killed and started again.

Tests that use it take the fixture `object_store`, one server for each test file that does.
"""

import http.client
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from held_port import held_port
from obstore.store import S3Store

START_SECONDS = 60.0
KEYS = {
    "owner": ["Admin", "Read", "Write", "List", "Tagging"],
    "writer": ["Read", "Write", "List", "Tagging"],
    "reader": ["Read", "List"],
}
"""Access keys, each with what it may do; the secret of KEY is KEY-secret."""


class ObjectStoreServer:
    """A server with a folder of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="finetree-s3-"))
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": f"{key}-secret"}], "actions": actions}
            for key, actions in KEYS.items()
        ]
        (self.folder / "identities.json").write_text(json.dumps({"identities": identities}))
        (self.folder / "data").mkdir()
        self._ports = [held_port() for _ in range(8)]
        self.port = self._ports[0]
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until objects are taken."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 1000,
            "volume.preStopSeconds": 0,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self.folder / "identities.json",
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("weed"), "server", *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._takes_objects():
            assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server, as the end of its machine does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self) -> None:
        """Stop, and remove the folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_bucket(self) -> str:
        """Create an empty bucket, and return its name."""
        name = f"bucket{next(self._numbers)}"
        self._make(name)
        return name

    def options(self, *, key: str = "writer", secret: str = "", endpoint: str = "") -> Any:
        """What the trainer's file of options has for this server."""
        return {
            "endpoint": endpoint or self.endpoint,
            "access_key_id": key,
            "secret_access_key": secret or f"{key}-secret",
            "region": "us-east-1",
        }

    def options_file(self, folder: Path, **options: str) -> Path:
        """Write the options to a file of TOML, and return it."""
        file = folder / "object-store.toml"
        lines = ["allow_http = true\n"]
        lines += [f"{name} = {json.dumps(value)}\n" for name, value in self.options(**options).items()]
        file.write_text("".join(lines))
        return file

    def store(self, bucket: str) -> S3Store:
        """A client of a bucket, beside the code under test."""
        return S3Store(bucket, config=self.options(key="owner"), client_options={"allow_http": True})

    def keys(self, bucket: str) -> list[str]:
        """Keys of every object of a bucket, in order."""
        return sorted(each["path"] for batch in obstore.list(self.store(bucket)) for each in batch)

    def _takes_objects(self) -> bool:
        try:
            self._make("ready")
            obstore.put(self.store("ready"), "ready", b"1")
        except (OSError, http.client.HTTPException, obstore.exceptions.BaseError):
            return False
        return True

    def _make(self, bucket: str) -> None:
        url = S3Store(bucket, config=self.options(key="owner"), client_options={"allow_http": True})
        signed = obstore.sign(url, "PUT", "", timedelta(minutes=5))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", signed.partition(f":{self.port}")[2])
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status not in (200, 409):
            raise OSError(f"bucket {bucket}: {answer.status}")
