# SPDX-License-Identifier: Apache-2.0
"""The database of a release as text: `python tests/robustness/upgrade/stored_database.py [COMMIT] > schema-N.sql`.

What a trainer of that release leaves when it is killed: a job that has ended, one that runs and one that waits. The
texts are in tests/unit/trainer/store/released, one for each version of the tables that was released; test_migrations.py
brings them to the newest one. Run it once for each release that has changed the tables, with the working tree as it is.
"""

import asyncio
import contextlib
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path

from releases import install
from upgrade import ROWS, jsonl, trainer_in, watched


async def text_of(folder: Path, commit: str) -> str:
    """Run a release, kill it, and return its database as SQL."""
    release = install(folder / "release", commit=commit)
    async with trainer_in(folder / "trainer") as running:
        running.script(3)
        talk = await running.start(release)
        dataset = (await talk.upload(jsonl(ROWS))).name
        await talk.events((await talk.train(dataset=dataset, request_id="ended")).name)
        running.script(1000, hold=4)
        busy = await talk.train(dataset=dataset, request_id="busy")
        await talk.train(dataset=dataset, request_id="waiting")
        await watched(talk, busy.name, 3)
        await running.end(signal.SIGKILL)
        running.kill_workers()
        with contextlib.closing(sqlite3.connect(running.database)) as connection:
            return "\n".join(connection.iterdump()) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="finetree-stored-") as place:
        sys.stdout.write(asyncio.run(text_of(Path(place), sys.argv[1] if len(sys.argv) > 1 else "")))
