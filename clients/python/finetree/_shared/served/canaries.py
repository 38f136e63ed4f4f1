# SPDX-License-Identifier: Apache-2.0
"""Canaries of a running server: whether an adapter has an effect there, and whether it answers as it did in training.

A server that has loaded an adapter whose names match no layer answers as its base does, without an error. So base and
adapter are asked the same, greedily, and the base twice: what differs between its own answers is the server's noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

from finetree._shared.served.openai_server import Completion, OpenAiServer, ServerError

TOKENS = 24
"""Tokens of a canary's answer: a long answer differs by rounding alone."""
PROMPTS = (
    "The capital of France is",
    "Question: What is 12 plus 30?\nAnswer:",
    "Once upon a time,",
    "Dear customer, thank you for",
)
"""Canaries beside the prompts of the training's own samples."""
MOST_SAMPLES = 8
SMALLEST_EFFECT = 1e-4
"""Difference of two log-probabilities that is an effect on a server without any noise."""
_NOISE_FACTOR = 4.0
_ALIKE = 0.6
"""Share of an answer that must be the recorded one's: greedy answers of other kernels part at some token."""
_SAMPLE_TOKENS = 64
_NO_CHAT = (400, 404, 405, 501)
"""What servers answer that have no chats, or no template for them: samples are then left out."""


class ServingVerdict(StrEnum):
    """What the canaries show of an adapter on a running server.

    `SERVED`: it has an effect, and no sample says otherwise. `NO_EFFECT`: all answers and their log-probabilities are
    the base's. `UNDECIDED`: the base answers otherwise each time that it is asked. `OTHER_ANSWERS`: it has an effect,
    and not one answer is what training recorded.
    """

    SERVED = "SERVED"
    NO_EFFECT = "NO_EFFECT"
    UNDECIDED = "UNDECIDED"
    OTHER_ANSWERS = "OTHER_ANSWERS"


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """An answer that training has recorded, before it and after it."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ServedCanary:
    """A prompt that base and adapter were asked.

    Attributes:
        prompt: the prompt.
        same_text: whether both answered the same text.
        difference: largest difference of log-probabilities (nats) up to the first token that differs; None where they
            are not offered.
        noise: the same between two answers of the base; infinite where its own texts differ.
    """

    prompt: str
    same_text: bool
    difference: float | None
    noise: float

    @property
    def differs(self) -> bool:
        """Whether base and adapter differ by more than the base from itself."""
        if self.noise == float("inf"):
            return False
        if not self.same_text:
            return True
        return self.difference is not None and self.difference > max(SMALLEST_EFFECT, _NOISE_FACTOR * self.noise)


@dataclass(frozen=True, slots=True)
class ServedSample:
    """A prompt of the training's samples that the adapter was asked again.

    Attributes:
        prompt: the prompt.
        before: what training recorded of the base.
        after: what training recorded of the trained model.
        answer: what the server answered.
        like_after: likeness of `answer` to `after`, 0 to 1.
        like_before: likeness of `answer` to `before`, 0 to 1.
    """

    prompt: str
    before: str
    after: str
    answer: str
    like_after: float
    like_before: float

    @property
    def matches(self) -> bool:
        """Whether it is the answer of training: nearly, and nearer than that of the base."""
        return self.like_after >= _ALIKE and self.like_after >= self.like_before


@dataclass(frozen=True, slots=True)
class ServingReport:
    """Whether an adapter has an effect on a running server, and whether it answers there as it did in training.

    Attributes:
        base: name of the base on the server.
        adapter: name of the adapter on the server.
        canaries: prompts that base and adapter were asked.
        samples: prompts of the training's samples; none where it recorded none, or the server has no chats.
    """

    base: str
    adapter: str
    canaries: tuple[ServedCanary, ...]
    samples: tuple[ServedSample, ...] = ()

    @property
    def matching(self) -> int:
        """Samples that are answered as in training."""
        return sum(each.matches for each in self.samples)

    @property
    def telling(self) -> int:
        """Samples that training has changed the answer of: the others say nothing."""
        return sum(each.before.strip() != each.after.strip() for each in self.samples)

    @property
    def verdict(self) -> ServingVerdict:
        """What canaries and samples show together."""
        if all(canary.noise == float("inf") for canary in self.canaries):
            return ServingVerdict.UNDECIDED
        if not any(canary.differs for canary in self.canaries):
            return ServingVerdict.NO_EFFECT
        return ServingVerdict.OTHER_ANSWERS if self.telling and not self.matching else ServingVerdict.SERVED

    def document(self) -> dict[str, Any]:
        """Return the JSON object; prompts and answers are left out, which may be of the training's rows."""
        differences = [canary.difference for canary in self.canaries if canary.difference is not None]
        return {
            "verdict": self.verdict.value,
            "base": self.base,
            "adapter": self.adapter,
            "canaries": len(self.canaries),
            "differing": sum(canary.differs for canary in self.canaries),
            "differing_texts": sum(not canary.same_text for canary in self.canaries),
            "largest_difference": max(differences, default=None),
            "largest_noise": max((c.noise for c in self.canaries if c.noise != float("inf")), default=None),
            "samples": len(self.samples),
            "samples_as_in_training": self.matching,
        }


class ServingCheck:
    """Asks a server for base and adapter, a prompt at a time. Blocking: the async client uses threads."""

    def __init__(self, server: OpenAiServer, base: str, adapter: str, recorded: Sequence[RecordedAnswer] = ()) -> None:
        """Keep what to ask. Nothing is sent yet."""
        self._server, self._base, self._adapter = server, base, adapter
        self._recorded = recorded[:MOST_SAMPLES]
        self._canaries = list[ServedCanary]()
        self._samples = list[ServedSample]()

    def steps(self) -> Iterator[tuple[int, int]]:
        """Ask, and give (prompts asked, prompts in all) after each. Raises ServerError."""
        prompts = list(dict.fromkeys([*PROMPTS, *(each.prompt for each in self._recorded)]))
        total = len(prompts) + len(self._recorded)
        for prompt in prompts:
            names = (self._base, self._base, self._adapter)
            answers = [self._server.complete(name, prompt, tokens=TOKENS) for name in names]
            self._canaries.append(_canary(prompt, *answers))
            yield len(self._canaries), total
        for recorded in self._recorded:
            tokens = max(_SAMPLE_TOKENS, len(recorded.after) // 2)
            try:
                answer = self._server.chat(self._adapter, recorded.prompt, tokens=tokens).text
            except ServerError as error:
                if error.status not in _NO_CHAT:
                    raise
                break
            self._samples.append(_sample(recorded, answer))
            yield len(prompts) + len(self._samples), total

    def finished(self) -> ServingReport:
        """Return what the steps have found."""
        return ServingReport(self._base, self._adapter, tuple(self._canaries), tuple(self._samples))


def _canary(prompt: str, first: Completion, again: Completion, tuned: Completion) -> ServedCanary:
    noise = float("inf") if first.text != again.text else _difference(first, again) or 0.0
    return ServedCanary(prompt, first.text == tuned.text, _difference(first, tuned), noise)


def _difference(left: Completion, right: Completion) -> float | None:
    """Return the largest difference of the log-probabilities that both have; None where one has none.

    Of texts that differ only the first token's are comparable with certainty: what follows has another context.
    """
    count = min(len(left.logprobs), len(right.logprobs))
    count = count if left.text == right.text else min(count, 1)
    pairs = zip(left.logprobs[:count], right.logprobs[:count], strict=True)
    return max((abs(one - other) for one, other in pairs), default=None)


def _sample(recorded: RecordedAnswer, answer: str) -> ServedSample:
    likeness = _likeness(answer, recorded.after), _likeness(answer, recorded.before)
    return ServedSample(recorded.prompt, recorded.before, recorded.after, answer, *likeness)


def _likeness(answer: str, recorded: str) -> float:
    """Return how alike two answers are, 0 to 1; of a longer answer only as much as was recorded counts."""
    left, right = answer.strip(), recorded.strip()
    if not left or not right:
        return float(left == right)
    length = min(len(left), len(right))
    return SequenceMatcher(None, left[:length], right[:length], autojunk=False).ratio()
