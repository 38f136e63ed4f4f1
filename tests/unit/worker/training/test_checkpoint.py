# SPDX-License-Identifier: Apache-2.0
"""Stopping and going on: the same weights bit by bit, and whatever lies on the disk."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_data.weights import checkpoint as checkpoint_files
from finetree_worker import atomic_files
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, CheckpointError, StorageError
from finetree_worker.methods.full import Full
from finetree_worker.plan import BaseModel, CheckpointPlan, Metric, OptimizerName, Plan
from finetree_worker.training import checkpoint
from worker_harness import Recorder, held_out, pausing, run, tuned, weights


@pytest.mark.parametrize("optimizer", [OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT])
def test_a_resumed_run_ends_in_the_same_weights_bit_by_bit(
    plan: Plan, tmp_path: Path, optimizer: OptimizerName
) -> None:
    straight = tuned(plan, optimizer=optimizer)
    broken = replace(straight, work=tmp_path / "other", artifact=tmp_path / "resumed")
    run(straight)
    for stop_after in (2, 5):
        with pytest.raises(Cancelled):
            run(broken, pausing(stop_after))
    recorder = run(broken)
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 5
    assert [step.step for step in recorder.of(event_pb2.StepMetrics)] == [6]
    left, right = weights(straight.artifact), weights(broken.artifact)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_plan_does_not_resume_from_this_ones_checkpoint(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    recorder = run(tuned(plan, learning_rate=1e-4))
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 0


def test_another_thread_count_resumes_with_a_warning(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    recorder = run(replace(plan, threads=2))
    assert recorder.alerts() == ["EXECUTION_PLAN_CHANGED"]


def test_a_checkpoint_from_before_shared_prefixes_resumes_with_a_warning(plan: Plan) -> None:
    """Its masks named every token by its row, so the run goes on with other ones."""
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    folder = plan.checkpoints_dir / "step-00000002"
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    assert state["environment"].pop("masks") == 2
    resealed(folder, "state.json", json.dumps(state).encode())
    recorder = run(plan)
    assert recorder.alerts() == ["EXECUTION_PLAN_CHANGED"]
    assert any("dropout masks" in message for message in recorder.messages)


def test_a_checkpoint_on_demand_does_not_stop_the_run(plan: Plan) -> None:
    recorder = run(plan, Recorder({3: Signal.CHECKPOINT}))
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [3]
    assert len(recorder.of(event_pb2.StepMetrics)) == 6


def test_cancel_writes_nothing(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder({2: Signal.CANCEL}))
    assert not plan.artifact.exists()
    assert not plan.checkpoints_dir.exists()


def test_the_newest_damaged_checkpoint_is_passed_over(plan: Plan) -> None:
    scheduled = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=3))
    with pytest.raises(Cancelled):
        run(scheduled, pausing(4))
    newest = plan.checkpoints_dir / "step-00000004"
    (newest / "weights.safetensors").write_bytes((newest / "weights.safetensors").read_bytes()[:-8])
    (plan.checkpoints_dir / "step-00000009").mkdir()
    recorder = run(scheduled)
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 3


def test_a_flipped_bit_in_a_checkpoint_is_found_and_an_older_one_taken(plan: Plan) -> None:
    scheduled = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=3))
    with pytest.raises(Cancelled):
        run(scheduled, pausing(4))
    shuffle, folder = random.Random(1), plan.checkpoints_dir / "step-00000004"
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for _ in range(12):
            damaged, bit = bytearray(whole), shuffle.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            found = checkpoint.newest(plan.checkpoints_dir, plan.numerics_hash())
            assert found is not None
            # The manifest has no hash of its own: a bit in it that decides nothing may pass, and the files are whole.
            assert found.position.step == 3 or file.name == "manifest.json", (file.name, bit)
        file.write_bytes(whole)
    assert checkpoint.newest(plan.checkpoints_dir, plan.numerics_hash()).position.step == 4


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(plan: Plan) -> None:
    # A file where the folder should be: the system refuses to write, as it does on a full disk.
    plan.work.mkdir()
    plan.checkpoints_dir.write_text("in the way")
    recorder = run(replace(plan, checkpoints=CheckpointPlan(every_steps=2)))
    assert [failed.reason for failed in recorder.of(event_pb2.CheckpointFailed)] == ["STORAGE_FAILED"] * 2
    assert plan.artifact.is_dir()
    with pytest.raises(StorageError):
        run(replace(plan, artifact=plan.artifact.with_name("b")), pausing(2))


def test_a_pause_while_evaluating_at_the_end_keeps_the_training(plan: Plan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    evaluated = held_out(plan, held, metrics=(Metric.LOSS,))

    class PauseAfterTraining(Recorder):
        def emit(self, payload: Any, **more: Any) -> None:
            super().emit(payload, **more)
            if isinstance(payload, event_pb2.PhaseProgress) and payload.phase == job_pb2.JOB_PHASE_EVALUATE_AFTER:
                self.asked = Signal.PAUSE

    with pytest.raises(Cancelled):
        run(evaluated, PauseAfterTraining())
    recorder = run(evaluated)
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 6
    assert not recorder.of(event_pb2.StepMetrics)
    assert plan.artifact.is_dir()


def test_a_checkpoint_holds_no_pickle_and_fits_only_its_layers(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    folder = plan.checkpoints_dir / "step-00000002"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    found = checkpoint.newest(plan.checkpoints_dir, plan.numerics_hash())
    assert found is not None
    with pytest.raises(CheckpointError):
        checkpoint.restore(found, {}, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))


def test_what_another_run_left_in_the_folder_costs_this_one_no_checkpoint(plan: Plan, tmp_path: Path) -> None:
    """Stale checkpoints of later steps would else be the newest, and one of the same step be taken for this run's."""
    stale = replace(tuned(plan, learning_rate=1e-4), checkpoints=CheckpointPlan(every_steps=1, keep=9))
    run(stale)
    mine = replace(plan, artifact=tmp_path / "b", checkpoints=CheckpointPlan(every_steps=1, keep=1))
    with pytest.raises(Cancelled):
        run(mine, pausing(2))
    assert checkpoint.newest(plan.checkpoints_dir, stale.numerics_hash()).position.step == 5
    recorder = run(mine)
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 2
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [3, 4, 5]
    assert checkpoint.newest(plan.checkpoints_dir, mine.numerics_hash()).position.step == 5


def test_a_checkpoint_of_another_version_is_not_passed_over_in_silence(plan: Plan) -> None:
    def belongs_to_another_version(step: int) -> None:
        manifest = plan.checkpoints_dir / f"step-{step:08}" / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 7}))

    with pytest.raises(Cancelled):
        run(replace(plan, checkpoints=CheckpointPlan(every_steps=1)), pausing(2))
    belongs_to_another_version(2)
    recorder = pausing(2)
    with pytest.raises(Cancelled):
        run(plan, recorder)
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 1
    assert recorder.alerts() == ["CHECKPOINT_SKIPPED"]
    for step in (1, 2):
        belongs_to_another_version(step)
    with pytest.raises(CheckpointError, match="format 7") as caught:
        run(plan)
    assert caught.value.reason == "CHECKPOINT_FORMAT_UNSUPPORTED"


class Payload:
    """Pickled, it is a call that writes a file as soon as it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "code ran")


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_pickle_in_a_checkpoint_is_passed_over_and_none_of_its_code_runs(
    plan: Plan, tmp_path: Path, name: str
) -> None:
    """Also where whoever put it there made the manifest fit, and also beside the files that belong there."""
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    folder, ran = plan.checkpoints_dir / "step-00000002", tmp_path / "ran"
    for file in (name, "optimizer.pt", "rng_state.pth"):
        torch.save(Payload(ran), folder / file)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": atomic_files.hashes(folder)}))
    recorder = run(plan)
    assert recorder.alerts()[0] == "CHECKPOINT_DAMAGED"
    assert name in recorder.of(event_pb2.Alert)[0].message
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 0
    assert not ran.exists()
    torch.load(folder / "optimizer.pt", weights_only=False)
    assert ran.exists(), "the payload would run where it is read"


def resealed(folder: Path, name: str, content: bytes) -> None:
    """Put other content into a file of a checkpoint, and make the manifest fit it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": atomic_files.hashes(folder)}))


def test_a_checkpoint_that_was_sealed_again_is_passed_over_and_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid seal over content that is deep, large or wrong: the one before it is used, as of any damaged one."""
    saving = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=9))
    with pytest.raises(Cancelled):
        run(saving, pausing(3))
    first, last = (saving.checkpoints_dir / f"step-0000000{step}" for step in (2, 3))
    state = json.loads((last / "state.json").read_text())
    wrong: dict[str, tuple[str, bytes]] = {
        "deep": ("state.json", b"[" * 100_000 + b"]" * 100_000),
        "a list": ("state.json", b"[]"),
        "another step": ("state.json", (first / "state.json").read_bytes()),
        "not a number": ("state.json", json.dumps(state | {"position": state["position"] | {"tokens": "1"}}).encode()),
        "no position": ("state.json", json.dumps(state | {"position": {}}).encode()),
        "no optimizer": ("state.json", json.dumps(state | {"optimizer": 3}).encode()),
    }
    no_tensors = (2).to_bytes(8, "little") + b"{}"
    for number, (what, (name, content)) in enumerate(wrong.items()):
        work = tmp_path / f"work{number}"
        tried = replace(saving, work=work, artifact=work / "artifact")
        shutil.copytree(saving.checkpoints_dir, tried.checkpoints_dir)
        resealed(tried.checkpoints_dir / "step-00000003", name, content)
        parts = tried.checkpoints_dir, tried.numerics_hash()
        assert checkpoint.newest(*parts).position.step == 2, what  # type: ignore[union-attr]  # there is one
    with monkeypatch.context() as small:
        small.setattr(checkpoint_files, "MAX_JSON_BYTES", 100)
        assert checkpoint.newest(saving.checkpoints_dir, saving.numerics_hash()) is None
    (saving.checkpoints_dir / "step-00000003" / "manifest.json").write_bytes(b"[" * 100_000)
    resealed(first, "optimizer.safetensors", no_tensors)
    resealed(first, "weights.safetensors", no_tensors)
    recorder = run(saving)
    alerts = [alert for alert in recorder.of(event_pb2.Alert) if alert.code == "CHECKPOINT_DAMAGED"]
    assert ["step 3" in alerts[0].message, "step 2" in alerts[1].message, len(alerts)] == [True, True, 2]
    assert "continues from step 1" in alerts[0].message
    assert recorder.of(event_pb2.AttemptStarted)[0].restored_step == 1
    # What was passed over is written anew, and is whole.
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [2, 3, 4, 5]
    whole = replace(saving, artifact=tmp_path / "again")
    assert checkpoint.newest(whole.checkpoints_dir, whole.numerics_hash()).position.step == 5  # type: ignore[union-attr]  # there is one


def test_a_worker_killed_between_the_best_checkpoint_and_the_next_keeps_the_best(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, write_rows: Callable[..., Path]
) -> None:
    """The best is known from the checkpoint itself: a note beside it would have been older than what was saved."""
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    kept = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=1, keep_best=True))
    kept = held_out(kept, held, metrics=(Metric.LOSS,), every_steps=1)
    values = iter([3.0, 1.0])

    class KilledError(BaseException):
        pass

    save = checkpoint.save

    def save_and_die(*arguments: Any, **more: Any) -> Path:
        save(*arguments, **more)
        if more["position"].step == 2:
            raise KilledError
        return plan.checkpoints_dir

    with monkeypatch.context() as patch:
        patch.setattr("finetree_worker.training.evaluation_schedule.Evaluations.between", lambda *_: next(values))
        patch.setattr(checkpoint, "save", save_and_die)
        patch.setattr("finetree_worker.training.loop.manifest_hash", lambda _: "")
        with pytest.raises(KilledError):
            run(kept)
    with monkeypatch.context() as patch:
        patch.setattr("finetree_worker.training.evaluation_schedule.Evaluations.between", lambda *_: 2.0)
        run(kept)
    left = {path.name for path in plan.checkpoints_dir.glob("step-*")}
    assert left == {"step-00000002", "step-00000005"}


def test_a_pinned_checkpoint_is_never_rotated(plan: Plan) -> None:
    saving = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=1))
    with pytest.raises(Cancelled):
        run(saving, pausing(2))
    with checkpoint_files.locked(saving.checkpoints_dir):
        checkpoint_files.write_kept(saving.checkpoints_dir, checkpoint_files.Kept({2}, {5: 1}))
    run(saving)
    assert checkpoint_files.steps(saving.checkpoints_dir) == [2, 5]
    assert not list(saving.checkpoints_dir.glob(".*"))


def allocated_peak(action: Callable[[], object]) -> int:
    """Most bytes that torch holds at once while an action runs: allocated, or mapped from a file."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_a_resumed_run_holds_the_state_of_the_optimizer_once(
    plan: Plan, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    """A second copy would not fit where the first run did.

    What torch counts is alike on every machine; the peak of a process depends on its heap's history.
    """
    folder = tmp_path / "wide"
    model = tiny("llama", num_hidden_layers=1, intermediate_size=1 << 16)
    state_bytes = 2 * 4 * sum(p.numel() for p in model.parameters())  # Adam's two moments in float32
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wide = replace(plan, base=BaseModel(folder), method=Full())
    wide = tuned(wide, max_steps=3, epochs=None, batch_size=1)

    def first() -> None:
        with pytest.raises(Cancelled):
            run(wide, pausing(2))

    before = allocated_peak(first)
    assert allocated_peak(lambda: run(wide)) - before < 0.05 * state_bytes < 0.05 * before
