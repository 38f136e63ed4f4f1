# SPDX-License-Identifier: Apache-2.0
"""A Dagster pipeline that fine-tunes a model, and a sensor that waits for a job without holding a process.

    pip install finetree dagster dagster-webserver
    FINETREE_ADDRESS=127.0.0.1:50051 dagster dev -f dagster_pipeline.py

The request id of the job depends on the run alone, never on the try: a step that is tried again, on another machine
or after a crash, finds the job that it has started, and nothing is trained twice.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
import finetree
from finetree_api.trainer.v1 import event_pb2, job_pb2

CURSOR = "finetree/cursor"
"""Tag of a run: how far its step had read the job's log when it was cut off."""
RECONNECT_SECONDS = 300.0
"""Longest time without a message of the trainer before a try of the step ends."""
RETRY_SECONDS = 30.0
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


class FineTune(dg.Config):
    """What to train, and what happens to the job when the run is terminated."""

    spec: dict[str, Any]
    """A RunSpec, as `finetree recommend --output` writes it."""
    on_kill: Literal["cancel", "checkpoint", "detach"] = "checkpoint"
    """"cancel" stops the job at once, "checkpoint" saves one first, "detach" lets it run: a new try finds it."""


def request_id(context: dg.OpExecutionContext) -> str:
    """Return the idempotency key of a step: of the first run of all that were re-executed from it."""
    first = context.run.root_run_id or context.run_id
    return f"dagster/{first}/{context.op_handle}"


def submit(context: dg.OpExecutionContext, client: finetree.Client, spec: dict[str, Any]) -> finetree.Job:
    """Create the job, or find the one that an earlier try has created."""
    key = request_id(context)
    job = client.train(spec, request_id=key, display_name=f"dagster {context.op_handle}", labels={"by": "dagster"})
    context.log.info(f"job {job.name}, request {key}, try {context.retry_number + 1}")
    return job


@dg.op
def fine_tune(context: dg.OpExecutionContext, config: FineTune) -> str:
    """Train, follow the job's events to the last one, and return its name.

    Only a lost connection is a reason to try again. A retry policy would also repeat a step that was terminated.
    """
    with finetree.Client(reconnect_timeout=RECONNECT_SECONDS) as client:
        job = submit(context, client, config.spec)
        try:
            terminal = follow(context, job)
        except finetree.Unavailable as error:
            # Only the watching was cut off: the next try re-attaches to the same job, and goes on where this one ends.
            context.instance.add_run_tags(context.run_id, {CURSOR: job.cursor})
            raise dg.RetryRequested(max_retries=3, seconds_to_wait=RETRY_SECONDS) from error
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            stop(context, job, config.on_kill)
            raise
        if terminal.state != job_pb2.JOB_STATE_SUCCEEDED:
            # A repeat would find the same job, which has ended: another run makes another one.
            text = terminal.error.message or "the job did not succeed"
            raise dg.Failure(text, metadata={"job": job.name})
        context.add_output_metadata({"job": job.name, "final_loss": terminal.summary.final_loss})
        return job.name


def follow(context: dg.OpExecutionContext, job: finetree.Job) -> event_pb2.Terminal:
    """Write the job's events to the run's log; each comes once, also through broken connections."""
    terminal = event_pb2.Terminal()
    run = context.instance.get_run_by_id(context.run_id)
    cursor = run.tags.get(CURSOR, "") if run is not None else ""
    for event in job.events(cursor=cursor, min_level="info"):
        context.log.info(f"{event.seq} {event.message}")
        if event.HasField("terminal"):
            terminal = event.terminal
    return terminal


def stop(context: dg.OpExecutionContext, job: finetree.Job, policy: str) -> None:
    """Do with the job of a terminated run what its configuration says."""
    if policy != "detach":
        job.cancel("CHECKPOINT" if policy == "checkpoint" else "NOW")
    context.log.warning(f"terminated: {policy} {job.name}")


@dg.job
def training() -> None:
    """Train, and hold the run open until the job has ended."""
    fine_tune()


@dg.op
def start_fine_tuning(context: dg.OpExecutionContext, config: FineTune) -> str:
    """Create the job and return its name at once; `ended_jobs` notices its end."""
    with finetree.Client() as client:
        return submit(context, client, config.spec).name


@dg.job
def deferred_training() -> None:
    """Start a job; no process waits for it."""
    start_fine_tuning()


@dg.op(config_schema={"job": str, "state": str})
def publish(context: dg.OpExecutionContext) -> None:
    """Take what a job has made to where it is needed; here its artifacts are listed."""
    with finetree.Client() as client:
        names = [artifact.name for artifact in client.job(context.op_config["job"]).artifacts()]
    context.log.info(f"{context.op_config['job']} is {context.op_config['state']}: {names}")


@dg.job
def publishing() -> None:
    """Publish the artifacts of one job."""
    publish()


@dg.sensor(job=publishing, minimum_interval_seconds=30)
def ended_jobs(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
    """Request a run for each job of this pipeline that has ended; the cursor keeps which ones are known."""
    known = set(json.loads(context.cursor or "[]"))
    with finetree.Client() as client:
        jobs = {job.name: job for job in client.list_jobs(labels={"by": "dagster"})}
    for name in sorted(jobs.keys() - known):
        if jobs[name].state in ENDED:
            state = job_pb2.JobState.Name(jobs[name].state).removeprefix("JOB_STATE_").lower()
            known.add(name)
            # The run key makes the request idempotent, should this evaluation end before its cursor is kept.
            yield dg.RunRequest(
                run_key=name, run_config={"ops": {"publish": {"config": {"job": name, "state": state}}}}
            )
    # Jobs that the trainer has deleted are forgotten.
    context.update_cursor(json.dumps(sorted(known & jobs.keys())))


defs = dg.Definitions(jobs=[training, deferred_training, publishing], sensors=[ended_jobs])
