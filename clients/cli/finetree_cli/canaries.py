# SPDX-License-Identifier: Apache-2.0
"""Canaries of a running server: whether an adapter has an effect there, and whether it answers as it did in training.

A server that has loaded an adapter whose names match no layer answers as its base does, without an error. So base and
adapter are asked the same, greedily, and the base twice: what differs between its own answers is the server's noise.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

from finetree_cli.backends.openai_server import Completion, OpenAiServer, ServerError

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


class Verdict(StrEnum):
    """What the canaries show."""

    SERVED = "SERVED"
    """The adapter has an effect, and no sample says otherwise."""
    NO_EFFECT = "NO_EFFECT"
    """All answers and their log-probabilities are the base's."""
    UNDECIDED = "UNDECIDED"
    """The base answers otherwise each time that it is asked."""
    OTHER_ANSWERS = "OTHER_ANSWERS"
    """It has an effect, and not one answer is what training recorded."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that training has recorded, before it and after it."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Canary:
    """A prompt that base and adapter were asked."""

    prompt: str
    same_text: bool
    difference: float | None
    """Largest difference of log-probabilities up to the first token that differs; None where they are not offered."""
    noise: float
    """The same between two answers of the base; infinite where its own texts differ."""

    @property
    def differs(self) -> bool:
        """Whether base and adapter differ by more than the base from itself."""
        if self.noise == float("inf"):
            return False
        if not self.same_text:
            return True
        return self.difference is not None and self.difference > max(SMALLEST_EFFECT, _NOISE_FACTOR * self.noise)


@dataclass(frozen=True, slots=True)
class Checked:
    """A sample that was asked again."""

    sample: Sample
    answer: str
    like_after: float
    """Likeness to the recorded answer, 0 to 1."""
    like_before: float

    @property
    def matches(self) -> bool:
        """Whether it is the answer of training: nearly, and nearer than that of the base."""
        return self.like_after >= _ALIKE and self.like_after >= self.like_before


@dataclass(frozen=True, slots=True)
class Report:
    """All canaries and samples with what they show."""

    base: str
    adapter: str
    canaries: tuple[Canary, ...]
    samples: tuple[Checked, ...] = field(default=())

    @property
    def matching(self) -> int:
        """Samples that are answered as in training."""
        return sum(each.matches for each in self.samples)

    @property
    def telling(self) -> int:
        """Samples that training has changed the answer of: the others say nothing."""
        return sum(each.sample.before.strip() != each.sample.after.strip() for each in self.samples)

    @property
    def verdict(self) -> Verdict:
        """What they show."""
        if all(canary.noise == float("inf") for canary in self.canaries):
            return Verdict.UNDECIDED
        if not any(canary.differs for canary in self.canaries):
            return Verdict.NO_EFFECT
        return Verdict.OTHER_ANSWERS if self.telling and not self.matching else Verdict.SERVED

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


def verify(
    server: OpenAiServer,
    base: str,
    adapter: str,
    *,
    samples: Sequence[Sample] = (),
    on_step: Callable[[], object] = lambda: None,
) -> Report:
    """Ask a server for base and adapter. `on_step` is called after each prompt. Raises ServerError."""
    chosen = samples[:MOST_SAMPLES]
    canaries = []
    for prompt in dict.fromkeys([*PROMPTS, *(sample.prompt for sample in chosen)]):
        ask = [server.complete(name, prompt, tokens=TOKENS) for name in (base, base, adapter)]
        canaries.append(_canary(prompt, *ask))
        on_step()
    checked = []
    for sample in chosen:
        tokens = max(_SAMPLE_TOKENS, len(sample.after) // 2)
        try:
            checked.append(_check(sample, server.chat(adapter, sample.prompt, tokens=tokens).text))
        except ServerError as error:
            if error.status not in _NO_CHAT:
                raise
            break
        on_step()
    return Report(base, adapter, tuple(canaries), tuple(checked))


def steps_of(samples: Iterable[Sample]) -> int:
    """Return how often `verify` calls `on_step`."""
    chosen = list(samples)[:MOST_SAMPLES]
    return len(dict.fromkeys([*PROMPTS, *(sample.prompt for sample in chosen)])) + len(chosen)


def _canary(prompt: str, first: Completion, again: Completion, tuned: Completion) -> Canary:
    noise = float("inf") if first.text != again.text else _difference(first, again) or 0.0
    return Canary(prompt, first.text == tuned.text, _difference(first, tuned), noise)


def _difference(left: Completion, right: Completion) -> float | None:
    """Return the largest difference of the log-probabilities that both have; None where one has none.

    Of texts that differ only the first token's are comparable with certainty: what follows has another context.
    """
    count = min(len(left.logprobs), len(right.logprobs))
    count = count if left.text == right.text else min(count, 1)
    pairs = zip(left.logprobs[:count], right.logprobs[:count], strict=True)
    return max((abs(one - other) for one, other in pairs), default=None)


def _check(sample: Sample, answer: str) -> Checked:
    return Checked(sample, answer, _likeness(answer, sample.after), _likeness(answer, sample.before))


def _likeness(answer: str, recorded: str) -> float:
    """Return how alike two answers are, 0 to 1; of a longer answer only as much as was recorded counts."""
    left, right = answer.strip(), recorded.strip()
    if not left or not right:
        return float(left == right)
    length = min(len(left), len(right))
    return SequenceMatcher(None, left[:length], right[:length], autojunk=False).ratio()
