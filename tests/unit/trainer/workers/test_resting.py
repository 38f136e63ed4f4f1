# SPDX-License-Identifier: Apache-2.0
"""Which jobs need the same base: those of one project that load equal weights in the same way."""

from typing import Any

import pytest
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2, weights_pb2
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.resting import base_of


def row(project: str = "default", commit: str = "c0ffee", **settings: Any) -> JobRow:
    spec = run_spec_pb2.RunSpec(precision=training_pb2.PRECISION_BF16)
    spec.model.name = "smollm2-135m"
    spec.MergeFrom(run_spec_pb2.RunSpec(**settings))
    job = job_pb2.Job(train=job_pb2.TrainTask(spec=spec), base=artifact_pb2.ArtifactBase(revision=commit))
    numbers = dict.fromkeys(("task", "state", "attempt", "last_seq", "oldest_seq", "attempt_started"), 0)
    times = dict.fromkeys(("cancel_requested", "create_time", "update_time", "end_time"), 0)
    return JobRow(
        **{name: "" for name in JobRow.__dataclass_fields__ if name not in ("record", "snapshot")}
        | numbers
        | times
        | {"uid": "u", "project": project, "suspended": False, "snapshot": b"", "record": job.SerializeToString()}
    )


LORA = {"lora": method_pb2.Lora(rank=8)}
QLORA = {"qlora": method_pb2.Qlora(quantization=method_pb2.QUANTIZATION_NF4)}


def test_trials_of_a_sweep_need_the_same_base():
    first = base_of(row(**LORA))
    others = (
        {"lora": method_pb2.Lora(rank=64, dropout=0.5), "training": training_pb2.Training(learning_rate=1.0)},
        {"prefix": method_pb2.PrefixTuning(virtual_tokens=4)},
        {"adapter": method_pb2.AdapterLayers()},
    )
    assert first
    assert {base_of(row(**settings)) for settings in others} == {first}
    wide = method_pb2.Qlora(quantization=method_pb2.QUANTIZATION_NF4, lora=LORA["lora"])
    assert base_of(row(**QLORA)) == base_of(row(qlora=wide))
    fp4 = method_pb2.Qlora(quantization=method_pb2.QUANTIZATION_FP4)
    assert base_of(row(**QLORA)) != base_of(row(qlora=fp4))


def test_other_tasks_end_their_worker():
    prepare = row(**LORA)
    prepare.record = job_pb2.Job(prepare=job_pb2.PrepareTask()).SerializeToString()
    assert base_of(prepare) == ""


@pytest.mark.parametrize(
    "other",
    [
        row("other", **LORA),
        row(commit="another", **LORA),
        row(**LORA, precision=training_pb2.PRECISION_FP32),
        row(**LORA, attention=training_pb2.ATTENTION_KERNEL_EAGER),
        row(**LORA, init_from=weights_pb2.TrainedWeights(path="adapter")),
        row(**QLORA),
        row(full=method_pb2.FullFineTuning()),
    ],
    ids=["project", "commit", "precision", "attention", "start", "4-bit", "trained"],
)
def test_another_base_has_another_name(other: JobRow):
    assert base_of(other) not in ("", base_of(row(**LORA)))
