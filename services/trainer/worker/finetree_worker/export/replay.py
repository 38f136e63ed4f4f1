# SPDX-License-Identifier: Apache-2.0
"""One model asked the prompts of an export: its answers, and its logits at the tokens that are compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from finetree_api.trainer.v1 import export_pb2
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.export.prompts import expected
from finetree_worker.methods.peft_format import quiet_peft
from finetree_worker.tokenize.rows import Row
from finetree_worker.training.evaluate import answers, matches, prompt_tokens

LOGIT_BYTES = 256 * 2**20
"""Bytes of the logits that are kept of a model: with 49,152 tokens in the vocabulary 1,365 places."""
_ANSWERING = 0.8  # share of the time that answers take


@dataclass(frozen=True, slots=True)
class Place:
    """A prompt with an answer to it, in tokens; logits are compared at its last `places` tokens."""

    tokens: list[int]
    prompt: int
    """Number of tokens of the prompt."""
    places: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a model made of the prompts. `prompts` are in tokens, `logits` of each (places, vocabulary) float32."""

    prompts: list[list[int]]
    answers: list[str]
    logits: list[Tensor]


def places(asked: Replay, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[Place]:
    """Return the tokens at which models are compared: the first model's answers and the ends of their prompts."""
    budget = max(1, LOGIT_BYTES // (4 * vocabulary * max(1, len(asked.prompts))))
    found = []
    for prompt, answer in zip(asked.prompts, asked.answers, strict=True):
        tokens: list[int] = [*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"]]
        found.append(Place(tokens, len(prompt), min(budget, len(tokens))))
    return found


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    on_fraction: Callable[[float], None],
) -> Replay:
    """Ask a model the prompts, rendered and tokenized by its own tokenizer; logits are not computed.

    `on_fraction` is called with 0..1 and may raise to stop.
    """
    given = answers(
        model,
        tokenizer,
        rows,
        max_new_tokens=max_new_tokens,
        on_fraction=lambda fraction: on_fraction(fraction * _ANSWERING),
    )
    return Replay([prompt_tokens(row, tokenizer) for row in rows], given, [])


def logits(model: PreTrainedModel, compared: Sequence[Place], on_fraction: Callable[[float], None]) -> list[Tensor]:
    """Return the logits of a model at each place, in float32. `on_fraction` as for `ask`, which it continues."""
    found = []
    model.train(mode=False)
    with torch.inference_mode(), quiet_peft():
        for done, place in enumerate(compared, start=1):
            ids = torch.tensor([place.tokens], device=model.device)
            output = model(input_ids=ids, use_cache=False, logits_to_keep=place.places)
            found.append(output.logits[0].to("cpu", torch.float32))
            on_fraction(_ANSWERING + (1 - _ANSWERING) * done / len(compared))
    return found


def compare(
    kind: export_pb2.ComparedModel.ValueType, mine: Replay, other: Replay, compared: Sequence[Place]
) -> export_pb2.LogitComparison:
    """Compare two models that were asked the same. Where the prompts differ in tokens, the difference is infinite."""
    largest, agreeing, tokens = 0.0, 0, 0
    for place, left, right in zip(compared, mine.logits, other.logits, strict=True):
        largest = max(largest, _largest(left, right))
        # The last token of the prompt predicts the first one of the answer.
        answered = min(len(place.tokens) - place.prompt + 1, place.places)
        agreeing += int((left[-answered:].argmax(-1) == right[-answered:].argmax(-1)).sum())
        tokens += answered
    if mine.prompts != other.prompts:
        largest = float("inf")
    return export_pb2.LogitComparison(
        model=kind,
        largest_difference=largest,
        agreement=agreeing / max(1, tokens),
        equal_answers=sum(map(str.__eq__, mine.answers, other.answers)),
    )


def _largest(left: Tensor, right: Tensor) -> float:
    difference = (left - right).abs()
    # Not a number where one of them is infinite: never equal to anything.
    return float("inf") if bool(difference.isnan().any()) else float(difference.max())


def largest_logit(replay: Replay) -> float:
    """Return the largest absolute logit, 1 at least."""
    return max(1.0, *(float(each.abs().max()) for each in replay.logits))


def exact_match(replay: Replay, rows: Sequence[Row]) -> float | None:
    """Return the share of prompts with a known answer that are answered with it; None where none has one."""
    known = [(answer, expected(row)) for answer, row in zip(replay.answers, rows, strict=True) if expected(row)]
    return sum(matches(answer, wanted) for answer, wanted in known) / len(known) if known else None
