# SPDX-License-Identifier: Apache-2.0
"""Changes of many jobs, a line for each: on stdout, as text or as JSON."""

from typing import TYPE_CHECKING

from finetree.display.events import event_line
from finetree_api.trainer.v1 import event_pb2

from finetree_cli.output import Output, as_dict, short_name
from finetree_cli.render.trainer.jobs import state_name

if TYPE_CHECKING:
    from finetree import Client


class ChangeLines:
    """Prints changes as they come. Names of jobs are asked for once, when a job is seen for the first time."""

    def __init__(self, out: Output, client: "Client") -> None:
        self._out, self._client = out, client
        self._names: dict[str, str] = {}

    def show(self, event: event_pb2.JobEvent, cursor: str) -> None:
        """Print a change; `cursor` is the place behind it."""
        if self._out.json:
            self._out.line(as_dict(event) | {"cursor": cursor})
            return
        text = event_line(event)
        if not text and event.kind in (event_pb2.EVENT_KIND_STATE_CHANGED, event_pb2.EVENT_KIND_LOG_LINE):
            text = event.message
        if event.kind == event_pb2.EVENT_KIND_STATE_CHANGED:
            text = f"{state_name(event.state)}: {text}"
        elif event.kind == event_pb2.EVENT_KIND_TERMINAL:
            text = f"ended, {state_name(event.state)}: {text}"
        time = event.event_time.ToDatetime().strftime("%H:%M:%S")
        self._out.text(f"{time}  {short_name(event.job)}  {self._name(event.job)}{text}")

    def _name(self, job: str) -> str:
        if job not in self._names:
            name = self._client.get_job(job).display_name
            self._names[job] = f"{name}  " if name else ""
        return self._names[job]
