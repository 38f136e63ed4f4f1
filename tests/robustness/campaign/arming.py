# SPDX-License-Identifier: Apache-2.0
"""Arms a worker at the fail point that its turn brings: the files of a folder name them, each is taken once.

The folder is `FINETREE_POINTS` of the program that the trainer starts. Only first attempts take one, so that a job is
killed once and its second attempt goes on.
"""

import os
from contextlib import suppress
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2
from finetree_data import fail_points

FOLDER = "points"
"""Name of the folder, beside the data folder in which the attempt's own folder lies."""


class Armed:
    """A core of which each training first takes its turn; everything else is the core's own."""

    def __init__(self, core) -> None:
        self._core = core

    def __getattr__(self, name: str):  # noqa: ANN204
        return getattr(self._core, name)

    def train(self, task: worker_pb2.Task, reporter, control):
        if task.attempt == 1:
            take(Path(task.folders.work_dir).parents[4] / FOLDER)
        return self._core.train(task, reporter, control)


def put(folder: Path, points: list[str]) -> None:
    """Name the fail points that the next first attempts take, one each; an empty name is a turn that arms nothing."""
    folder.mkdir(exist_ok=True)
    for number, point in enumerate(points):
        (folder / f"{number:04}-{point}").touch()


def take(folder: Path) -> None:
    """Take the next turn."""
    for file in sorted(folder.glob("????-*")):
        with suppress(FileNotFoundError):  # another worker was faster
            file.rename(file.with_name(f"taken-{os.getpid()}-{file.name}"))
            fail_points.arm(file.name[5:])
            return
