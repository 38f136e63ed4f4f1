# SPDX-License-Identifier: Apache-2.0
"""Runs of docs/examples/dagster_pipeline.py, in an environment with Dagster: `python dagster_runs.py EXAMPLES WHAT`.

first: train, and print the run's id; it is killed while it follows the job.
again RUN: re-execute that run, then do what else the pipeline promises; prints one JSON object.
"""

import json
import os
import signal
import sys
import threading
import uuid
from typing import Any

import dagster as dg
import finetree
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import job_pb2

sys.path.insert(0, sys.argv[1])
import dagster_pipeline as pipeline

SPEC = {"model": {"name": "smollm2-135m-instruct"}, "dataset": {"path": "rows.jsonl"}, "lora": {}}
IN_PROCESS = {"execution": {"config": {"in_process": {}}}}


def config(op: str, **more: Any) -> dict[str, Any]:
    return {"ops": {op: {"config": {"spec": SPEC, **more}}}}


def run(instance: dg.DagsterInstance, **options: Any) -> str:
    """Name of the job of a run."""
    settings = config("fine_tune", **options)
    name: str = pipeline.training.execute_in_process(settings, instance=instance).output_for_node("fine_tune")
    return name


def first(instance: dg.DagsterInstance) -> None:
    run_id = str(uuid.uuid4())
    sys.stdout.write(f"{run_id}\n")
    sys.stdout.flush()
    pipeline.training.execute_in_process(config("fine_tune"), instance=instance, run_id=run_id)


def again(instance: dg.DagsterInstance, parent: str) -> None:
    told: dict[str, Any] = {}
    options = dg.ReexecutionOptions(parent_run_id=parent)
    settings = config("fine_tune") | IN_PROCESS
    training = dg.reconstructable(pipeline.training)
    with dg.execute_job(training, instance, run_config=settings, reexecution_options=options) as found:
        told["again"] = found.output_for_node("fine_tune")
    told["another"] = run(instance)
    deferred = pipeline.deferred_training.execute_in_process(config("start_fine_tuning"), instance=instance)
    told["deferred"] = deferred.output_for_node("start_fine_tuning")
    told["sensed"] = sensed(instance)
    with Suite() as suite:
        suite.datasets.files["rows.jsonl"] = b'{"text": "a"}\n'
        suite.trainer.script = Script(hold_at=5)
        os.environ["FINETREE_ADDRESS"] = suite.address
        told["killed"] = {policy: killed(instance, suite, policy) for policy in ("cancel", "checkpoint", "detach")}
        told["cut"] = cut(instance, suite)
    sys.stdout.write(f"{json.dumps(told)}\n")


def sensed(instance: dg.DagsterInstance) -> list[list[str]]:
    """Jobs for which the sensor requests a run, in two evaluations, and what the run that it requests lists."""
    cursor, found = None, []
    for _ in range(2):
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        requests = list(pipeline.ended_jobs(context))
        cursor = context.cursor
        found.append([str(request.run_key) for request in requests])
        if requests:
            assert pipeline.publishing.execute_in_process(requests[0].run_config, instance=instance).success
    return found


def killed(instance: dg.DagsterInstance, suite: Suite, policy: str) -> str:
    """Interrupt a run as a terminated one is interrupted, once it follows its job; the state of the job after that."""
    before = suite.trainer.attached

    def interrupt() -> None:
        suite.trainer.attached_at_least(before + 1, timeout=60)
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=interrupt)
    timer.start()
    try:
        run(instance, on_kill=policy)
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        pass
    else:
        raise AssertionError("the run was not interrupted")
    timer.join()
    with finetree.Client() as client:
        newest = next(iter(client.list_jobs()))
    return job_pb2.JobState.Name(newest.state)


def cut(instance: dg.DagsterInstance, suite: Suite) -> dict[str, Any]:
    """Cut the watching off for longer than the client tries; the step's next try goes on with the same job."""
    pipeline.RECONNECT_SECONDS, pipeline.RETRY_SECONDS = 0.01, 0.0
    suite.trainer.script = Script(hold_at=3)
    created, attached = len(suite.faults.calls("CreateJob")), suite.trainer.attached
    with finetree.Client() as client:
        before = {job.name for job in client.list_jobs()}

        def interrupt() -> None:
            suite.trainer.attached_at_least(attached + 1, timeout=60)
            suite.trainer.disconnect_after(4)
            suite.faults.fail_next("WatchJob", finetree.Unavailable("gone"))
            (name,) = {job.name for job in client.list_jobs()} - before
            suite.trainer.advance(name)

        timer = threading.Thread(target=interrupt)
        timer.start()
        run(instance)
        timer.join()
        made = {job.name for job in client.list_jobs()} - before
    (newest,) = instance.get_runs(limit=1)
    calls = len(suite.faults.calls("CreateJob")) - created
    return {"jobs": len(made), "calls": calls, "cursor": bool(newest.tags.get(pipeline.CURSOR))}


if __name__ == "__main__":
    with dg.DagsterInstance.get() as shared:
        if sys.argv[2] == "first":
            first(shared)
        else:
            again(shared, sys.argv[3])
