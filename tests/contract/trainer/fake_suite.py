# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - keyword arguments here are settings of a trainer
"""`finetree.testing.Suite` where a test of the contract asks for a trainer: the same scripts, the same files."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from finetree.testing import Clock, Script, Suite
from finetree.testing.catalog import MODELS
from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import training_data_pb2
from google.protobuf import json_format
from trainer_harness import OPTIONS, ROWS, Talker, jsonl

ARTIFACT = {"adapter": {"weights.bin": bytes(range(256)) * 4096}}
"""What the scripted worker makes."""


@contextlib.asynccontextmanager
async def suite(tmp_path: Path, script: dict | None = None, **settings) -> AsyncIterator[Talker]:
    """A suite that does what a trainer with a scripted worker does.

    A script whose steps take time runs by a clock of real speed, since the tests of the trainer wait for it.
    """
    told = script or {}
    clock = Clock(speed=1.0 if "delay" in told else 0.0)
    with Suite(clock=clock, accelerators=()) as running:
        for model in MODELS.values():
            running.base_models.remove(model.hub_id)
        running.trainer.script = course(told)
        running.base_models.add_path("tiny", hub_id="acme/tiny-of-path")
        running.datasets.files["train.jsonl"] = jsonl(ROWS)
        apply(running, settings)
        async with grpc.aio.insecure_channel(running.address, options=OPTIONS) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            yield Talker(stub, running, channel, running.datasets.files.__setitem__, put_model=running.base_models.add)


def apply(running: Suite, settings: dict) -> None:
    """Give a suite the limits that a trainer's settings have."""
    for name, value in settings.items():
        match name:
            case "max_upload_bytes" | "max_project_bytes":
                setattr(running.datasets, name, value)
            case "max_queued":
                running.trainer.max_queued = value
            case "max_watchers_per_caller":
                running.trainer.watches.max_watchers = value
            case _:
                raise AssertionError(f"the fake suite has no setting {name}")


def course(told: dict) -> Script:
    """A script of the scripted worker, as one of the suite."""
    fields: dict = {"steps": told.get("steps", 3), "step_seconds": float(told.get("delay", 0.0))}
    fields["files"] = ARTIFACT if told.get("artifact") else {}
    if told.get("outcome") == "failed":
        fields |= {"outcome": "FAILED", "reason": "DIVERGED", "remedy": "Lower the learning rate."}
        fields |= {"category": job_pb2.FAILURE_CATEGORY_USER, "problem": "The loss was not finite."}
    if tokens := told.get("report"):
        profile = training_data_pb2.DatasetProfile(examples=20, total_tokens=tokens, exact=True)
        report = event_pb2.DatasetReport(split=training_data_pb2.SPLIT_TRAIN, profile=profile)
        fields["reports"] = (report,)
    if rows := told.get("preview"):
        fields["preview"] = tuple(json_format.ParseDict(row, dataset_pb2.PreviewRow()) for row in rows)
    if "phases" in told:
        fields["phases"] = tuple(told["phases"])
    unknown = told.keys() - {"steps", "delay", "artifact", "outcome", "report", "preview", "phases"}
    assert not unknown, f"the fake suite has no script for {unknown}"
    return Script(**fields)
