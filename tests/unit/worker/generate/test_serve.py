# SPDX-License-Identifier: Apache-2.0
"""A serving task through its port: what it is asked, what it replies, and how it ends."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import method_pb2, training_pb2, weights_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.attach import serving
from finetree_worker.attach.commands import Commands, Stop
from finetree_worker.attach.serving import ServingPort
from finetree_worker.errors import MemoryExhaustedError, PlanError
from finetree_worker.generate.plan import ServePlan
from finetree_worker.methods.weights import Weights
from finetree_worker.process import runner
from finetree_worker.process.core import TrainingCore
from generate_harness import finishes, request, texts
from google.rpc import code_pb2, error_details_pb2
from worker_harness import Recorder

SECONDS = 60.0
"""Longest wait for a reply: it takes milliseconds, and a second or two on a loaded machine."""


@dataclass
class Service:
    """The service's side of a task that runs in a thread: it asks, and reads replies."""

    task: worker_pb2.Task
    recorder: Recorder = field(default_factory=Recorder)
    commands: Commands = field(default_factory=Commands)
    outcome: Any = None

    def __post_init__(self) -> None:
        self.news = threading.Event()
        self.port = ServingPort(self.news.set)
        self.port.opened()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.outcome = runner.run(
            self.task, TrainingCore(), reporter=self.recorder, commands=self.commands, port=self.port
        )

    def ask(self, number: int, **asked: Any) -> None:
        self.port.receive(worker_pb2.ServingRequest(id=number, **asked))

    def reply(self) -> worker_pb2.ServingReply:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            self.news.clear()
            if (reply := self.port.next_reply()) is not None:
                return reply
            self.news.wait(0.1)
        raise AssertionError(self.outcome or "no reply")

    def answer(self, number: int) -> serving_pb2.GenerateResponse:
        """All that is said to a generation, joined."""
        said = serving_pb2.GenerateResponse()
        while not said.HasField("usage"):
            reply = self.reply()
            assert reply.id == number, reply
            said.MergeFrom(reply.generated)
        return said

    def refused(self, number: int) -> tuple[int, error_details_pb2.ErrorInfo]:
        """Code and reason of an error."""
        reply, info = self.reply(), error_details_pb2.ErrorInfo()
        assert (reply.id, reply.WhichOneof("reply")) == (number, "error"), reply
        reply.error.details[0].Unpack(info)
        return reply.error.code, info

    def ended(self) -> worker_pb2.TaskOutcome:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self.outcome


@pytest.fixture
def task(base_folder: Path, saved: dict[str, Weights]) -> worker_pb2.Task:
    serve = serving_pb2.ServeTask(
        precision=training_pb2.PRECISION_FP32, targets=[shown("lora4"), shown("prefix")], max_parallel=4
    )
    return worker_pb2.Task(
        job="projects/p/jobs/j",
        attempt=1,
        serve=serve,
        base=worker_pb2.TaskBaseModel(model_dir=str(base_folder)),
        weights=[located(saved[name], name) for name in ("lora4", "prefix")],
    )


@pytest.fixture
def start() -> Iterator[Callable[[worker_pb2.Task], Service]]:
    services: list[Service] = []

    def begin(task: worker_pb2.Task) -> Service:
        services.append(Service(task))
        return services[-1]

    yield begin
    for service in services:
        service.commands.end(Stop.CANCEL)
        service.ended()


def shown(name: str) -> serving_pb2.ServeTarget:
    return serving_pb2.ServeTarget(name=name, weights=weights_pb2.TrainedWeights(path=f"adapters/{name}"))


def located(weights: Weights, name: str) -> worker_pb2.TaskWeights:
    return worker_pb2.TaskWeights(name=name, folder=str(weights.folder), kind=weights.kind)


def load(weights: Weights, name: str) -> worker_pb2.LoadWeights:
    return worker_pb2.LoadWeights(target=shown(name), weights=located(weights, name))


def test_targets_are_asked_loaded_and_removed_while_it_serves(
    start: Callable[..., Service], task: worker_pb2.Task, saved: dict[str, Weights]
) -> None:
    service = start(task)
    service.ask(1, generate=request("hello", "base", "lora4", "prefix", max_new_tokens=8))
    first = service.answer(1)
    assert [finish.new_tokens for finish in finishes(first).values()] == [8, 8, 8]
    service.ask(2, load=load(saved["rslora"], "third"))
    loaded = service.reply().loaded
    assert (loaded.name, loaded.method, loaded.rank) == ("third", method_pb2.METHOD_LORA, 16)
    assert loaded.weights.path == "adapters/third"
    assert 0 < loaded.size_bytes < (saved["rslora"].folder / "adapter_model.safetensors").stat().st_size
    service.ask(3, generate=request("hello", "third", "base", max_new_tokens=8))
    assert texts(service.answer(3))[1] == texts(first)[0]
    service.ask(4, unload="third")
    assert service.reply().HasField("unloaded")
    service.ask(5, generate=request("hello", "third"))
    code, info = service.refused(5)
    assert (code, info.reason, info.metadata["targets"]) == (
        code_pb2.NOT_FOUND,
        "TARGET_NOT_LOADED",
        "base, lora4, prefix",
    )
    changes = service.recorder.of(serving_pb2.ServingChanged)
    names = serving_pb2.ServingChange.Name
    assert [(names(each.change), each.target, [t.name for t in each.targets]) for each in changes] == [
        ("SERVING_CHANGE_READY", "", ["lora4", "prefix"]),
        ("SERVING_CHANGE_LOADED", "third", ["lora4", "prefix", "third"]),
        ("SERVING_CHANGE_UNLOADED", "third", ["lora4", "prefix"]),
    ]
    phases = [(each.phase, each.fraction) for each in service.recorder.of(event_pb2.PhaseProgress)]
    assert phases[0] == (job_pb2.JOB_PHASE_LOAD_MODEL, 0.0)
    assert phases[-1] == (job_pb2.JOB_PHASE_SERVE, 0.0)


def test_a_conversation_is_asked_through_the_chat_template_of_training(
    start: Callable[..., Service], task: worker_pb2.Task, tokenizer: Any
) -> None:
    service = start(task)
    turns = [{"role": serving_pb2.CHAT_ROLE_SYSTEM, "content": "be short"}]
    turns.append({"role": serving_pb2.CHAT_ROLE_USER, "content": "hello"})
    asked = serving_pb2.GenerateRequest(targets=["lora4"], conversation=serving_pb2.Conversation(messages=turns))
    asked.sampling.max_new_tokens = 8
    service.ask(1, generate=asked)
    answer = service.answer(1)
    chat = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    service.ask(2, generate=request(rendered, "lora4", max_new_tokens=8))
    assert texts(answer) == texts(service.answer(2))


def test_bad_loads_are_refused_and_change_nothing(
    start: Callable[..., Service], task: worker_pb2.Task, saved: dict[str, Weights], tmp_path: Path
) -> None:
    service = start(task)
    other = located(saved["lora8"], "x")
    other.base.fingerprint = "0" * 64
    nothing = Weights("x", tmp_path, artifact_pb2.ARTIFACT_KIND_ADAPTER)
    cases = [
        (load(saved["lora8"], "lora4"), code_pb2.ALREADY_EXISTS, "TARGET_EXISTS"),
        (worker_pb2.LoadWeights(target=shown("x"), weights=other), code_pb2.INVALID_ARGUMENT, "WRONG_BASE"),
        (load(nothing, "x"), code_pb2.INVALID_ARGUMENT, "WEIGHTS_UNREADABLE"),
    ]
    for number, (asked, code, reason) in enumerate(cases, start=1):
        service.ask(number, load=asked)
        found, info = service.refused(number)
        assert (found, info.reason) == (code, reason)
    service.ask(9, unload="x")
    assert service.refused(9)[1].reason == "TARGET_NOT_LOADED"
    assert len(service.recorder.of(serving_pb2.ServingChanged)) == 1
    # A name that was refused can be had.
    service.ask(10, load=load(saved["lora8"], "x"))
    assert service.reply().loaded.name == "x"


def test_a_removed_target_ends_what_it_is_answering(start: Callable[..., Service], task: worker_pb2.Task) -> None:
    service = start(task)
    service.ask(1, generate=request("hello", "lora4", "base", max_new_tokens=400))
    assert service.reply().id == 1
    service.ask(2, unload="lora4")
    said, unloaded = serving_pb2.GenerateResponse(), False
    while not said.HasField("usage"):
        reply = service.reply()
        unloaded = unloaded or reply.HasField("unloaded")
        said.MergeFrom(reply.generated)
    assert unloaded
    ends = finishes(said)
    assert ends[0].reason == serving_pb2.FINISH_REASON_CANCELLED
    assert ends[1].reason == serving_pb2.FINISH_REASON_MAX_NEW_TOKENS


def test_a_cancelled_generation_says_so_and_the_next_is_answered(
    start: Callable[..., Service], task: worker_pb2.Task
) -> None:
    service = start(task)
    service.ask(1, generate=request("hello", "base", max_new_tokens=450))
    service.reply()
    service.ask(1, cancel=worker_pb2.CancelGeneration())
    assert finishes(service.answer(1))[0].reason == serving_pb2.FINISH_REASON_CANCELLED
    service.ask(2, generate=request("hello", "base", max_new_tokens=2))
    assert service.answer(2).usage.new_tokens == 2


def test_a_stream_that_breaks_ends_what_was_asked_on_it(
    start: Callable[..., Service], task: worker_pb2.Task, saved: dict[str, Weights]
) -> None:
    service = start(task)
    service.ask(1, generate=request("hello", "base", max_new_tokens=450))
    service.reply()
    service.port.closed()
    service.port.opened()
    # Numbers begin anew on each stream.
    service.ask(1, generate=request("x", "lora4", max_new_tokens=3))
    assert service.answer(1).usage.new_tokens == 3
    service.ask(2, load=load(saved["rslora"], "third"))
    assert service.reply().loaded.name == "third"


def test_a_task_that_is_ahead_of_the_stream_waits(
    start: Callable[..., Service], task: worker_pb2.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that nobody takes stop the decoding, and the task's end does not wait for them."""
    monkeypatch.setattr(serving, "ROOM_BYTES", 400)
    service = start(task)
    service.ask(1, generate=request("hello", "base", "lora4", max_new_tokens=450))
    until = time.monotonic() + SECONDS
    while service.port.wait_for_room(0) and time.monotonic() < until:
        time.sleep(0.01)
    waiting = []
    while (reply := service.port.next_reply()) is not None and len(waiting) < 3:
        waiting.append(reply)
    # Far less than the whole answer, and it goes on where there is room.
    assert not any(reply.generated.HasField("usage") for reply in waiting)
    assert service.answer(1).usage.new_tokens == 900
    service.ask(2, generate=request("hello", "base", "lora4", max_new_tokens=450))
    while service.port.wait_for_room(0) and time.monotonic() < until:
        time.sleep(0.01)
    service.commands.end(Stop.CANCEL)
    assert service.ended().kind == worker_pb2.OUTCOME_KIND_CANCELLED


@pytest.mark.parametrize(
    ("stop", "kind"),
    [
        (Stop.CANCEL, worker_pb2.OUTCOME_KIND_CANCELLED),
        (Stop.SHUTDOWN, worker_pb2.OUTCOME_KIND_SUCCEEDED),
        (Stop.INTERRUPT, worker_pb2.OUTCOME_KIND_INTERRUPTED),
    ],
)
def test_it_ends_at_once_in_the_middle_of_an_answer(
    start: Callable[..., Service], task: worker_pb2.Task, stop: Stop, kind: int
) -> None:
    service = start(task)
    service.ask(1, generate=request("hello", "base", "lora4", max_new_tokens=450))
    service.reply()
    service.commands.end(stop)
    assert service.ended().kind == kind
    # Without its end: it was in the middle of the answer.
    left = [reply for _ in range(500) if (reply := service.port.next_reply()) is not None]
    assert not any(reply.generated.HasField("usage") for reply in left)


@pytest.mark.parametrize(
    ("stop", "kind"),
    [(Stop.CANCEL, worker_pb2.OUTCOME_KIND_CANCELLED), (Stop.SHUTDOWN, worker_pb2.OUTCOME_KIND_SUCCEEDED)],
)
def test_it_ends_before_it_is_loaded_too(task: worker_pb2.Task, stop: Stop, kind: int) -> None:
    commands, recorder = Commands(), Recorder()
    commands.end(stop)
    ended = runner.run(task, TrainingCore(), reporter=recorder, commands=commands, port=ServingPort(lambda: None))
    assert ended.kind == kind
    assert recorder.of(serving_pb2.ServingChanged) == []


def test_without_a_service_it_ends_with_its_lease(start: Callable[..., Service], task: worker_pb2.Task) -> None:
    task.serve.lease.FromMilliseconds(300)
    service = start(task)
    service.ask(1, generate=request("hello", max_new_tokens=2))
    service.answer(1)
    time.sleep(0.5)
    # While the service is there, it counts, and the worker does not.
    service.ask(2, generate=request("hello", max_new_tokens=2))
    service.answer(2)
    service.port.closed()
    assert service.ended().kind == worker_pb2.OUTCOME_KIND_SUCCEEDED


def test_a_base_that_memory_does_not_hold_is_refused_before_it_is_loaded(
    task: worker_pb2.Task, base_folder: Path
) -> None:
    plan = ServePlan.from_task(task)
    file = base_folder / "model.safetensors"
    assert 0.9 * file.stat().st_size < plan.weight_bytes() < file.stat().st_size
    plan.check_memory(0)
    with pytest.raises(MemoryExhaustedError) as refused:
        plan.check_memory(plan.weight_bytes() - 1)
    assert refused.value.reason == "OUT_OF_MEMORY_PREFLIGHT"
    task.serve.precision = training_pb2.PRECISION_BF16
    half = ServePlan.from_task(task).weight_bytes()
    task.serve.quantization = method_pb2.QUANTIZATION_NF4
    assert half == plan.weight_bytes() // 2
    assert ServePlan.from_task(task).weight_bytes() < half


def test_settings_that_cannot_be_served_are_refused(task: worker_pb2.Task) -> None:
    task.serve.precision = training_pb2.PRECISION_FP16_MIXED
    with pytest.raises(PlanError) as refused:
        ServePlan.from_task(task)
    assert refused.value.reason == "SETTING_NOT_SUPPORTED"
    task.serve.precision = training_pb2.PRECISION_FP32
    del task.weights[:]
    with pytest.raises(PlanError, match="no folder"):
        ServePlan.from_task(task)


def test_a_target_of_another_base_fails_the_task(start: Callable[..., Service], task: worker_pb2.Task) -> None:
    task.weights[0].base.fingerprint = "0" * 64
    service = start(task)
    outcome, info = service.ended(), error_details_pb2.ErrorInfo()
    outcome.error.details[0].Unpack(info)
    assert (outcome.kind, info.reason) == (worker_pb2.OUTCOME_KIND_FAILED, "WRONG_BASE")
