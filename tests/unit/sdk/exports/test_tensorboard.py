# SPDX-License-Identifier: Apache-2.0
"""Event files, read back by TensorBoard itself."""

import warnings

import pytest
from finetree.exports import tensorboard
from finetree_api.trainer.v1 import event_pb2, job_pb2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of TensorBoard's own libraries
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

JOB = job_pb2.Job(name="projects/default/jobs/7", uid="7")
JOB.create_time.FromSeconds(1_790_000_000)


def step(number: int, loss: float | None, *, seconds: float = 0.0) -> event_pb2.JobEvent:
    event = event_pb2.JobEvent(
        step_metrics=event_pb2.StepMetrics(step=number, loss=loss, learning_rate=1e-3, epoch=0.5)
    )
    event.event_time.FromMilliseconds(1_790_000_000_000 + round(1000 * (seconds or number)))
    return event


def evaluation(number: int, loss: float, of: int = 1) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(attempt=of, eval_metrics=event_pb2.EvalMetrics(step=number, loss=loss))


def attempt(restored: int, of: int = 1) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(attempt=of, attempt_started=event_pb2.AttemptStarted(restored_step=restored))


def read(folder, events) -> EventAccumulator:
    (folder / tensorboard.file_name(JOB)).write_bytes(
        tensorboard.beginning(JOB) + b"".join(map(tensorboard.part, events))
    )
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_reads_what_was_written(tmp_path):
    found = read(
        tmp_path, [evaluation(0, 3.0), attempt(0), step(1, 2.5), step(2, None), step(3, 1.5), evaluation(3, 2.0)]
    )
    assert {"train/loss", "train/learning_rate", "eval/loss", "speed/step_seconds"} <= set(found.Tags()["scalars"])
    losses = found.Scalars("train/loss")
    assert [(each.step, each.value, each.wall_time) for each in losses] == [
        (1, 2.5, 1_790_000_001.0),
        (3, 1.5, 1_790_000_003.0),
    ]
    assert [(each.step, each.value) for each in found.Scalars("eval/loss")] == [(0, 3.0), (3, 2.0)]
    assert found.Scalars("train/learning_rate")[0].value == pytest.approx(1e-3)
    assert found.file_version == 2
    assert found.FirstEventTimestamp() == 1_790_000_000


@pytest.mark.parametrize("restored", [2, 0])
def test_steps_that_a_later_attempt_repeats_are_replaced(tmp_path, restored):
    first = [evaluation(0, 9.0), attempt(0), *(step(number, 9.0) for number in range(1, 6)), evaluation(5, 9.0)]
    again = [*([] if restored else [evaluation(0, 1.0, of=2)]), attempt(restored, of=2)]
    again += [step(number, 1.0, seconds=10 + number) for number in range(restored + 1, 8)]
    found = read(tmp_path, [*first, *again])
    losses = [(each.step, each.value) for each in found.Scalars("train/loss")]
    assert losses == [(number, 9.0 if number <= restored else 1.0) for number in range(1, 8)]
    assert [each.value for each in found.Scalars("eval/loss")] == [9.0 if restored else 1.0]


def test_the_checksum_is_castagnoli_s_masked():
    """Check value of the RFC (3720, B.4): 32 zeros; "123456789" is that of Koopman's catalog."""
    for data, crc in ((bytes(32), 0x8A9136AA), (b"123456789", 0xE3069283)):
        masked = tensorboard.masked_crc32c(data)
        rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
        assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == crc
