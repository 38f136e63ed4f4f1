# SPDX-License-Identifier: Apache-2.0
"""Progress bars of uploads and downloads, on a terminal only."""

import contextlib
from collections.abc import Callable, Iterator

from finetree_cli.output import Output


@contextlib.contextmanager
def transfer(out: Output, title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback (bytes done, bytes in total) that moves a bar; None where there is no terminal."""
    console = out.console(err=True)
    if out.json or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield on_progress
