# SPDX-License-Identifier: Apache-2.0
"""A job's metrics as an event file of TensorBoard, without TensorFlow.

The messages are those of tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto, as far as
scalars need them; records are framed as TFRecords:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

VERSION = "brain.Event:2"
"""Version of the format; from 2 on a reader drops the steps that a restart repeats."""
STEP = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "epoch": "train/epoch",
    "tokens_per_second": "speed/tokens_per_second",
    "step_seconds": "speed/step_seconds",
    "memory_bytes": "memory/bytes",
    "peak_memory_bytes": "memory/peak_bytes",
    "padding_fraction": "train/padding_fraction",
}
"""Tags of fields of StepMetrics; TensorBoard makes a group of what stands before the slash."""
EVALUATION = {
    "loss": "eval/loss",
    "perplexity": "eval/perplexity",
    "token_accuracy": "eval/token_accuracy",
    "exact_match": "eval/exact_match",
}
"""Tags of fields of EvalMetrics."""
_CRC32C_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected (RFC 3720, appendix B.4)."""
_MASK_DELTA = 0xA282EAD8


def file_name(job: job_pb2.Job) -> str:
    """Name of the file: readers look for "tfevents", and sort by the seconds since 1970 behind it."""
    return f"events.out.tfevents.{job.create_time.seconds:010d}.finetree.{job.uid}"


def beginning(job: job_pb2.Job) -> bytes:
    """The record that says which version of the format follows."""
    event = _messages()["Event"]()
    event.wall_time, event.file_version = job.create_time.ToMicroseconds() / 1e6, VERSION
    return record(event.SerializeToString(deterministic=True))


def part(event: event_pb2.JobEvent) -> bytes:
    """The records of an event; nothing of one that has no metrics.

    Where an attempt goes on from a checkpoint, a START of its session has a reader drop the steps that it repeats. One
    that begins anew measures the base model first, as step 0.
    """
    made, before = _event(event), b""
    match event.WhichOneof("payload"):
        case "step_metrics":
            made.step = event.step_metrics.step
            _add_values(made, event.step_metrics, STEP)
        case "eval_metrics":
            made.step = event.eval_metrics.step
            if event.attempt > 1 and not made.step:
                before = _start(event, 0)
            _add_values(made, event.eval_metrics, EVALUATION)
        case "attempt_started" if event.attempt > 1:
            return _start(event, event.attempt_started.restored_step + 1)
        case _:
            return b""
    return before + record(made.SerializeToString(deterministic=True))


def _start(event: event_pb2.JobEvent, step: int) -> bytes:
    """The record upon which a reader drops what it has of this step and of later ones."""
    made = _event(event)
    made.step, made.session_log.status = step, 1
    return record(made.SerializeToString(deterministic=True))


def _event(event: event_pb2.JobEvent) -> Any:
    made = _messages()["Event"]()
    made.wall_time = event.event_time.ToMicroseconds() / 1e6
    return made


def record(data: bytes) -> bytes:
    """Frame bytes as a TFRecord: length, its checksum, the bytes, their checksum; little endian."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated right by 15 bits and offset by a constant, as TFRecord stores it."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    """The checksum of each byte."""
    return tuple(_checksums())


def _checksums() -> Iterator[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C_POLYNOMIAL if crc & 1 else 0)
        yield crc


def _add_values(made: Any, metrics: Any, tags: dict[str, str]) -> None:
    for name, tag in tags.items():
        if not metrics.DESCRIPTOR.fields_by_name[name].has_presence or metrics.HasField(name):
            made.summary.value.add(tag=tag, simple_value=getattr(metrics, name))


@functools.cache
def _messages() -> dict[str, Any]:
    """The classes of TensorBoard's messages, in a pool of their own: a caller may have the real ones loaded."""
    kinds = descriptor_pb2.FieldDescriptorProto
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    fields = {
        "Value": (("tag", 1, kinds.TYPE_STRING, one, ""), ("simple_value", 2, kinds.TYPE_FLOAT, one, "")),
        "Summary": (("value", 1, kinds.TYPE_MESSAGE, many, "Value"),),
        # An enum in the original, which is written in the same way.
        "SessionLog": (("status", 1, kinds.TYPE_INT32, one, ""),),
        "Event": (
            ("wall_time", 1, kinds.TYPE_DOUBLE, one, ""),
            ("step", 2, kinds.TYPE_INT64, one, ""),
            ("file_version", 3, kinds.TYPE_STRING, one, ""),
            ("summary", 5, kinds.TYPE_MESSAGE, one, "Summary"),
            ("session_log", 7, kinds.TYPE_MESSAGE, one, "SessionLog"),
        ),
    }
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="tensorboard", syntax="proto2")
    for message, members in fields.items():
        described = file.message_type.add(name=message)
        for name, number, kind, label, nested in members:
            described.field.add(
                name=name, number=number, type=kind, label=label, type_name=f".tensorboard.{nested}" if nested else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorboard.{name}")) for name in fields}
