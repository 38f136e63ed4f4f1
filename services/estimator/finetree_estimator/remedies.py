# SPDX-License-Identifier: Apache-2.0
"""Changes that make a run fit: every combination of a few known ones, the least harmful first."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.plan import canonical, resolve_spec
from google.protobuf import json_format

from finetree_estimator import engine
from finetree_estimator.fit import Verdict
from finetree_estimator.intervals import Interval
from finetree_estimator.lookups import Knowledge
from finetree_estimator.reading import Reading, read

MOST = 4
"""Remedies that an answer holds."""
SHORTEST = 128
"""Tokens below which a sequence length is not halved."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change: new values, as proto JSON, by RunSpec path."""

    patches: tuple[tuple[str, str], ...]
    summary: str
    harm: int
    """What it costs: 1 to 3 speed, 4 and 5 perhaps quality, more another method."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes to be made together, and the device peak in bytes after them."""

    changes: tuple[Change, ...]
    peak: Interval
    verdict: Verdict

    @property
    def summary(self) -> str:
        """One line for people."""
        changes = ", ".join(change.summary for change in self.changes)
        return f"{changes}: about {self.peak.expected / 1024**3:.1f} GiB, {self.verdict.value}"


def search(request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge) -> list[Remedy]:
    """Smallest sets of changes after which the run fits, the least harmful first; empty where it fits already."""
    if _judge(reading)[1] in {Verdict.FITS, Verdict.UNSPECIFIED}:
        return []
    found: list[Remedy] = []
    for changes in _combinations(_applicable(reading.spec)):
        if any(set(remedy.changes) <= set(changes) for remedy in found):
            continue
        peak, verdict = _judge(read(_changed(request, reading.spec, changes), knowledge))
        if verdict is Verdict.FITS:
            found.append(Remedy(changes, peak, verdict))
            if len(found) == MOST:
                break
    return found


def _judge(reading: Reading) -> tuple[Interval, Verdict]:
    peaks, fits = engine.fit_of(reading.run)
    return peaks.device, fits.verdict


def _combinations(changes: list[Change]) -> list[tuple[Change, ...]]:
    """All sets of changes to different fields, by harm and then by number."""
    sets: list[tuple[Change, ...]] = []
    for size in range(1, len(changes) + 1):
        for chosen in itertools.combinations(changes, size):
            paths = [path for change in chosen for path, _ in change.patches]
            if len(paths) == len(set(paths)):
                sets.append(chosen)
    return sorted(sets, key=lambda chosen: (sum(change.harm for change in chosen), len(chosen)))


def _applicable(spec: rs.RunSpec) -> list[Change]:
    return [*_speed(spec), *_optimizer(spec), *_sequence(spec), *_method(spec)]


def _speed(spec: rs.RunSpec) -> Iterator[Change]:
    """Changes that cost speed alone."""
    if spec.training.micro_batch_size > 1:
        yield Change((("training.micro_batch_size", "1"),), "one row at a time", 1)
    if spec.loss_kernel == rs.LOSS_KERNEL_FULL_LOGITS:
        yield Change((("loss_kernel", '"LOSS_KERNEL_COMPLETION_ONLY"'),), "logits only where something is learned", 1)
    off = spec.gradient_checkpointing == rs.GRADIENT_CHECKPOINTING_OFF
    if off and spec.WhichOneof("method") != "prefix":
        yield Change((("gradient_checkpointing", '"GRADIENT_CHECKPOINTING_FULL"'),), "recompute activations", 2)


def _optimizer(spec: rs.RunSpec) -> Iterator[Change]:
    """Adapters have so few moments that 8 bits save nothing, and a CPU has no 8-bit kernels."""
    large = spec.WhichOneof("method") == "full" and spec.optimizer == rs.OPTIMIZER_ADAMW
    if large and spec.hardware.WhichOneof("device") != "cpu":
        yield Change((("optimizer", '"OPTIMIZER_ADAMW_8BIT"'),), "8-bit optimizer states", 3)


def _sequence(spec: rs.RunSpec) -> Iterator[Change]:
    half = spec.training.sequence_length // 2
    if half >= SHORTEST:
        yield Change((("training.sequence_length", str(half)),), f"rows cut at {half} tokens", 5)


def _method(spec: rs.RunSpec) -> Iterator[Change]:
    on_gpu = spec.hardware.WhichOneof("device") != "cpu"
    method = spec.WhichOneof("method")
    if method == "lora" and on_gpu:
        yield Change((("qlora", json.dumps({"lora": canonical(spec.lora)})),), "a 4-bit base (QLoRA)", 4)
    if method == "full":
        # A rate for all weights is ten times too low for adapters, so it goes along.
        rate = ("training.learning_rate", str(resolve_spec(rs.RunSpec(lora=rs.Lora())).spec.training.learning_rate))
        yield Change((("lora", "{}"), rate), "LoRA in place of all weights", 8)
        if on_gpu:
            yield Change((("qlora", "{}"), rate), "QLoRA in place of all weights", 9)


def _changed(request: pb.EstimateRunRequest, spec: rs.RunSpec, changes: tuple[Change, ...]) -> pb.EstimateRunRequest:
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.spec.CopyFrom(spec)
    for change in changes:
        for path, json_value in change.patches:
            apply_patch(changed.spec, path, json_value)
    return changed


def apply_patch(spec: rs.RunSpec, path: str, json_value: str) -> None:
    """Set the field at a RunSpec path to a value in proto JSON; a member of a oneof replaces the other."""
    value = json.loads(json_value)
    for name in reversed(path.split(".")):
        value = {name: value}
    json_format.ParseDict(value, spec)
