# SPDX-License-Identifier: Apache-2.0
"""A chat with trained weights: which base model serves them, and what each of them is asked and answers."""

import queue
import re
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetree_api.trainer.v1 import job_pb2, serving_pb2
from finetree_api.types.v1 import method_pb2, weights_pb2

from finetree_cli.errors import BadInput
from finetree_cli.output import short_name

if TYPE_CHECKING:
    from finetree import AnswerPiece, Client, Serving

BASE = "base"
"""What a user writes for the base model."""
MOST = 5
"""Subjects of one chat."""
_SUBJECT = re.compile(r"[\w./-]+(@\d+)?")


@dataclass(slots=True)
class Subject:
    """One of those that answer: its label for people, which no other has, its target's name, and its conversation."""

    label: str
    target: str
    weights: str
    """A job, or its checkpoint as JOB@STEP; empty for the base model."""
    quantization: method_pb2.Quantization.ValueType = method_pb2.QUANTIZATION_UNSPECIFIED
    """Of the base that it was trained on; unspecified for the base model, and where it was not quantized."""
    messages: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asking:
    """How they are asked."""

    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `Serving.generate`."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
        }


@dataclass(slots=True)
class Turn:
    """What has been answered to one message: texts, ends and speed by the subjects' labels."""

    texts: dict[str, str]
    finishes: dict[str, serving_pb2.Finish] = field(default_factory=dict)
    usages: list[serving_pb2.GenerationUsage] = field(default_factory=list)

    @property
    def first_token_seconds(self) -> float:
        """Seconds to the first token of any subject; 0 before it has ended."""
        return min((usage.first_token_seconds for usage in self.usages), default=0.0)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all subjects for each second after the first; 0 where they are too few to tell."""
        return sum(usage.tokens_per_second for usage in self.usages)


def subjects_of(client: "Client", job: str, against: Sequence[str]) -> tuple[list[Subject], job_pb2.Job]:
    """Find those that are to answer, and the job whose base model they share.

    Raises:
        BadInput: A name is none, one stands twice, or there are too many.
    """
    found = [_subject(client, word) for word in (job, *against)]
    for index, (subject, _) in enumerate(found):
        if subject.target in {other.target for other, _ in found[:index]}:
            raise BadInput(f"{subject.label} is named twice", reason="NAMED_TWICE")
    if len(found) > MOST:
        raise BadInput(f"{len(found)} are named; {MOST} can answer side by side", reason="TOO_MANY_SUBJECTS")
    trained = next((record for _, record in found if record is not None), None)
    if trained is None:
        raise BadInput("JOB must be a job; `--against base` adds its base model", reason="INVALID_NAME")
    subjects = [subject for subject, _ in found]
    labels = Counter(subject.label for subject in subjects)
    for subject in subjects:
        # Runs of a day often have one name, and answers are told apart by their label.
        if labels[subject.label] > 1 and subject.weights:
            subject.label = f"{subject.label} ({subject.target})"
    return subjects, trained


def _subject(client: "Client", word: str) -> tuple[Subject, job_pb2.Job | None]:
    if word == BASE:
        return Subject(BASE, BASE, ""), None
    if not _SUBJECT.fullmatch(word):
        text = f"{word!r} is no job and no checkpoint of one"
        raise BadInput(text, remedy="write JOB, JOB@STEP or base", reason="INVALID_NAME")
    name, _, step = word.partition("@")
    record = client.get_job(name)
    label = record.display_name or short_name(record.name)[-12:]
    # By the job's id, so that whoever uses the same served model means the same weights by it.
    target = short_name(record.name)[-12:]
    if step:
        label, target = f"{label}@{step}", f"{target}-{step}"
    weights = f"{record.name}@{step}" if step else record.name
    return Subject(label, target, weights, record.train.spec.qlora.quantization), record


def quantization_of(subjects: Sequence[Subject]) -> method_pb2.Quantization.ValueType | None:
    """How the base is to be loaded: as all of them were trained, where they agree; None where it is not quantized."""
    kinds = {subject.quantization for subject in subjects if subject.weights}
    return (kinds.pop() or None) if len(kinds) == 1 else None


def running_base(client: "Client", job: job_pb2.Job) -> "Serving | None":
    """Find a job of the project that serves the same base model now."""
    for found in client.list_jobs(states=["running"], tasks=["serve"], page_size=100):
        if job_pb2.JOB_ACTION_GENERATE in found.allowed_actions and _have_same_base(found, job):
            return client.serving(found.name)
    return None


def _have_same_base(serving: job_pb2.Job, trained: job_pb2.Job) -> bool:
    ours, theirs = trained.train.spec.model, serving.serve.model
    if "path" in (ours.WhichOneof("source"), theirs.WhichOneof("source")):
        return ours == theirs
    return (serving.base.hub_id, serving.base.revision) == (trained.base.hub_id, trained.base.revision)


def load_missing(serving: "Serving", subjects: Sequence[Subject]) -> None:
    """Load those that a served base model does not have yet, under any name."""
    loaded = serving.targets().targets
    for subject in subjects:
        same = next((target for target in loaded if _is_of(target.weights, subject.weights)), None)
        if same is not None:
            subject.target = same.name
        elif subject.weights:
            serving.load(subject.target, subject.weights)


def _is_of(weights: weights_pb2.TrainedWeights, named: str) -> bool:
    """Whether loaded weights are those of a job, or of its checkpoint JOB@STEP."""
    job, _, step = named.partition("@")
    if step:
        return weights.checkpoint == f"{job}/checkpoints/{step}"
    return bool(job) and weights.artifact.startswith(f"{job}/artifacts/")


class Chat:
    """A conversation with several subjects, each of which has its own history."""

    def __init__(self, serving: "Serving", subjects: Sequence[Subject], asking: Asking) -> None:
        self._serving, self._asking = serving, asking
        self.subjects = list(subjects)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        first = [{"role": "system", "content": self._asking.system}] if self._asking.system else []
        for subject in self.subjects:
            subject.messages = [dict(message) for message in first]

    def say(self, message: str) -> Generator[Turn]:
        """Say something to all of them, and give what has been answered so far, each time that there is more.

        A caller that stops to read ends the answers; what was answered until then stays in the history.
        """
        said = {"role": "user", "content": message}
        for subject in self.subjects:
            subject.messages.append(said)
        turn = Turn({subject.label: "" for subject in self.subjects})
        try:
            for _ in self._answers(turn):
                yield turn
        finally:
            for subject in self.subjects:
                subject.messages.append({"role": "assistant", "content": turn.texts[subject.label]})

    def _answers(self, turn: Turn) -> Iterator[None]:
        """Ask in one call those whose histories are the same, and read all calls at once."""
        groups: list[list[Subject]] = []
        for subject in self.subjects:
            same = next((group for group in groups if group[0].messages == subject.messages), None)
            if same is None:
                groups.append([subject])
            else:
                same.append(subject)
        calls = [
            self._serving.generate(
                group[0].messages, targets=[subject.target for subject in group], **self._asking.options
            )
            for group in groups
        ]
        labels = {subject.target: subject.label for subject in self.subjects}
        news: queue.SimpleQueue[AnswerPiece | Exception | None] = queue.SimpleQueue()
        readers = [threading.Thread(target=_read, args=(call, news), daemon=True) for call in calls]
        for reader in readers:
            reader.start()
        try:
            left = len(calls)
            while left:
                piece = news.get()
                if piece is None:
                    left -= 1
                    continue
                if isinstance(piece, Exception):
                    raise piece
                turn.texts[labels[piece.target]] += piece.text
                if piece.finish is not None:
                    turn.finishes[labels[piece.target]] = piece.finish
                yield
            turn.usages = [call.usage for call in calls if call.usage is not None]
        finally:
            for call in calls:
                call.close()


def _read(call: Any, news: "queue.SimpleQueue[AnswerPiece | Exception | None]") -> None:
    try:
        for piece in call:
            news.put(piece)
    except Exception as error:  # noqa: BLE001 - raised where the answers are read
        news.put(error)
    else:
        news.put(None)
