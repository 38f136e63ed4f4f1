# SPDX-License-Identifier: Apache-2.0
"""MLflow over its REST API: a run for each job, with its settings, its curves and how it ended.

A value is known to MLflow by key, time, step and value, so one that is sent again is not kept twice: values have the
event's time, never the time of sending. Rpcs and limits: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from finetree.exports import tensorboard
from finetree.json import to_json
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.sinks.delivery import Comparison, Delivered, RefusedError
from finetree_cli.sinks.http_post import send_json

MOST_METRICS, MOST_PARAMS = 1000, 100
"""Most metrics and parameters of a LogBatch."""
LONGEST_PARAM = 500
"""Characters of a parameter's value that every version of MLflow keeps."""
EXPERIMENT = "finetree/{project}"
"""Name of the experiment where none is given."""
UID_TAG, JOB_TAG = "finetree.job_uid", "finetree.job"
_STATUS = {
    job_pb2.JOB_STATE_QUEUED: "SCHEDULED",
    job_pb2.JOB_STATE_SUCCEEDED: "FINISHED",
    job_pb2.JOB_STATE_FAILED: "FAILED",
    job_pb2.JOB_STATE_CANCELLED: "KILLED",
}
"""Status of a run by the state of its job; RUNNING for the others."""
_PAGE = 25_000
"""Values of a page of a metric's history."""


@dataclass(frozen=True, slots=True)
class Key:
    """What MLflow knows a value by."""

    key: str
    timestamp: int
    """Milliseconds since 1970."""
    step: int
    value: float


def values_of(event: event_pb2.JobEvent) -> list[Key]:
    """List the values of an event, under the tags of its TensorBoard export; fields that are not set are left out."""
    kind = event.WhichOneof("payload")
    if kind not in ("step_metrics", "eval_metrics"):
        return []
    metrics: Any = getattr(event, kind)
    tags = tensorboard.STEP if kind == "step_metrics" else tensorboard.EVALUATION
    milliseconds = event.event_time.ToMilliseconds()
    return [
        Key(tag, milliseconds, metrics.step, float(getattr(metrics, name)))
        for name, tag in tags.items()
        if not metrics.DESCRIPTOR.fields_by_name[name].has_presence or metrics.HasField(name)
    ]


def settings_of(job: job_pb2.Job) -> dict[str, str]:
    """Flatten the settings of a job's run to texts by path; a long one is cut, and ends in "…"."""
    found: dict[str, str] = {}
    task = job.WhichOneof("task")
    if task == "train":
        _flatten(to_json(job.train.spec), "", found)
    return {path: _short(text) for path, text in found.items()}


def tags_of(job: job_pb2.Job) -> dict[str, str]:
    """Tags of a job's run."""
    tags = {
        UID_TAG: job.uid,
        JOB_TAG: job.name,
        "finetree.task": job.WhichOneof("task") or "",
        "finetree.state": job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower(),
        "finetree.attempt": str(job.attempt),
        "finetree.plan_digest": job.plan_digest,
        "finetree.reason": job.state_reason.code,
    }
    labels = {f"finetree.label.{name}": value for name, value in job.labels.items()}
    return {name: value for name, value in (tags | labels).items() if value}


@dataclass(frozen=True, slots=True)
class Mlflow:
    """A tracking server."""

    url: str
    experiment: str = EXPERIMENT
    """Name of the experiment; {project} stands for the job's."""
    token: str = field(default="", repr=False)
    """For "Authorization: Bearer"; empty: none."""
    login: tuple[str, str] = field(default=("", ""), repr=False)
    """User and password; empty: none."""
    kinds: Sequence[str] = ()
    whole: bool = False

    def reached(self, job: job_pb2.Job, seq: int) -> int:
        """The cursor is all that is known."""
        del job
        return seq

    def deliver(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Iterator[Delivered]:
        """Send the values in as few calls as the server takes, then what the run is called and how it stands."""
        run = remote or self._run(job)
        waiting: list[Key] = []
        for event in events:
            found = values_of(event)
            if waiting and len(waiting) + len(found) > MOST_METRICS:
                self._log(run, metrics=waiting)
                waiting = []
                yield Delivered(event.seq - 1, run)
            waiting += found
        if waiting:
            self._log(run, metrics=waiting)
        self._log(run, tags=tags_of(job))
        self._finish(run, job)
        yield Delivered(events[-1].seq, run)

    def compare(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Comparison | None:
        """Read every curve of the run back."""
        expected = Counter(value for event in events for value in values_of(event))
        run = remote or self._found(job, self._experiment(job))
        if not run:
            raise RefusedError("has no run of this job")
        held: Counter[Key] = Counter()
        for key in sorted({*tensorboard.STEP.values(), *tensorboard.EVALUATION.values()}):
            held.update(self._history(run, key))
        return Comparison(len(expected), sum((expected - held).values()), sum((held - expected).values()))

    def _run(self, job: job_pb2.Job) -> str:
        """Find the job's run, or make it: after a crash between making and noting it is found by its tag."""
        experiment = self._experiment(job)
        run = self._found(job, experiment)
        if not run:
            made = self._post(
                "runs/create",
                {
                    "experiment_id": experiment,
                    "run_name": job.display_name or job.uid,
                    "start_time": job.create_time.ToMilliseconds(),
                    "tags": _pairs(tags_of(job)),
                },
            )
            run = str(made["run"]["info"]["run_id"])
        params = _pairs(settings_of(job))
        for start in range(0, len(params), MOST_PARAMS):
            self._log(run, params=params[start : start + MOST_PARAMS])
        return run

    def _found(self, job: job_pb2.Job, experiment: str) -> str:
        """Id of the job's run; empty where there is none."""
        wanted = {"experiment_ids": [experiment], "filter": f"tags.`{UID_TAG}` = '{job.uid}'", "max_results": 1}
        runs = self._post("runs/search", wanted).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else ""

    def _experiment(self, job: job_pb2.Job) -> str:
        """Id of the experiment, made where it is not there."""
        name = self.experiment.replace("{project}", job.name.split("/")[1])
        try:
            found = self._call(f"experiments/get-by-name?experiment_name={quote(name, safe='')}", None, method="GET")
            return str(found["experiment"]["experiment_id"])
        except RefusedError as error:
            if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                raise
        try:
            return str(self._post("experiments/create", {"name": name})["experiment_id"])
        except RefusedError as error:
            # Another sink has made it meanwhile, or somebody has deleted it: the name stays taken.
            if "RESOURCE_ALREADY_EXISTS" not in str(error):
                raise
            found = self._call(f"experiments/get-by-name?experiment_name={quote(name, safe='')}", None, method="GET")
            return str(found["experiment"]["experiment_id"])

    def _log(
        self,
        run: str,
        *,
        metrics: Sequence[Key] = (),
        params: Sequence[Mapping[str, str]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        sent = [{"key": v.key, "value": v.value, "timestamp": v.timestamp, "step": v.step} for v in metrics]
        self._post("runs/log-batch", {"run_id": run, "metrics": sent, "params": params, "tags": _pairs(tags or {})})

    def _finish(self, run: str, job: job_pb2.Job) -> None:
        changed: dict[str, Any] = {"run_id": run, "status": _STATUS.get(job.state, "RUNNING")}
        if job.HasField("end_time"):
            changed["end_time"] = job.end_time.ToMilliseconds()
        self._post("runs/update", changed)

    def _history(self, run: str, key: str) -> Iterator[Key]:
        """Values of a curve that the server has."""
        token = ""
        while True:
            asked = {"run_id": run, "metric_key": key, "max_results": str(_PAGE)} | (
                {"page_token": token} if token else {}
            )
            query = urlencode(asked)
            page = self._call(f"metrics/get-history?{query}", None, method="GET")
            for value in page.get("metrics", []):
                yield Key(value["key"], int(value["timestamp"]), int(value.get("step", 0)), float(value["value"]))
            token = page.get("next_page_token", "")
            if not token:
                return

    def _post(self, rpc: str, document: Mapping[str, Any]) -> Any:
        return self._call(rpc, document, method="POST")

    def _call(self, rpc: str, document: Mapping[str, Any] | None, *, method: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if self.login[0]:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
        return send_json(f"{self.url.rstrip('/')}/api/2.0/mlflow/{rpc}", document, headers, method=method)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 1]}…"


def _pairs(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(texts.items())]


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(inner, f"{path}.{key}" if path else key, found)
    elif isinstance(value, str):
        found[path] = value
    else:
        found[path] = json.dumps(value, ensure_ascii=False)
