# SPDX-License-Identifier: Apache-2.0
"""Choosing a token: which are possible, how often each, and that nothing else decides it than seed and position."""

from collections import Counter

import pytest
import torch
from finetree_api.trainer.v1 import serving_pb2
from finetree_worker.errors import TaskError
from finetree_worker.generate.sampling import DEFAULT_NEW_TOKENS, Sampling, choose, uniform
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

KNOWN = [0.136777082526, 0.888077751112, 0.368413059643]
LOGITS = torch.tensor([2.0, -1.0, 0.5, 3.0, 1.0, -2.0, 0.0, 2.5])


def drawn(sampling: Sampling, count: int = 4000) -> dict[int, float]:
    """Shares of the tokens over many positions."""
    counts = Counter(choose(LOGITS, sampling, position) for position in range(count))
    return {token: number / count for token, number in counts.items()}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0, top_k=3),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=1.5, top_k=5, top_p=0.7),
        Sampling(temperature=1.0, top_p=0.01),
    ],
)
def test_tokens_come_as_often_as_transformers_says(sampling: Sampling) -> None:
    """Against its logit warpers in its order; 4,000 draws of a known sequence."""
    warped = LOGITS[None]
    warped = TemperatureLogitsWarper(sampling.temperature)(None, warped)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    expected = torch.softmax(warped[0], dim=-1)
    shares = drawn(sampling)
    assert set(shares) == {token for token in range(len(LOGITS)) if expected[token] > 0.0005}
    for token, share in shares.items():
        assert share == pytest.approx(float(expected[token]), abs=0.025)


def test_temperature_zero_takes_the_most_probable_token() -> None:
    assert {choose(LOGITS, Sampling(seed=seed, top_k=1), position) for seed in range(3) for position in range(3)} == {3}


def test_the_choice_belongs_to_seed_and_position_alone() -> None:
    """The numbers are the same on every machine and in every version."""
    assert [round(uniform(seed, position), 12) for seed, position in ((0, 0), (0, 1), (7, 0))] == KNOWN
    sampling = Sampling(temperature=1.0, seed=3)
    first = [choose(LOGITS, sampling, position) for position in range(20)]
    torch.manual_seed(1)
    assert [choose(LOGITS, sampling, position) for position in reversed(range(20))] == first[::-1]
    assert len(set(first)) > 2


def test_what_is_unset_has_the_default() -> None:
    assert Sampling.from_message(serving_pb2.Sampling()) == Sampling()
    assert Sampling().max_new_tokens == DEFAULT_NEW_TOKENS
    given = serving_pb2.Sampling(temperature=0.7, top_p=0.9, top_k=4, seed=5, max_new_tokens=6, stop=["x"])
    assert Sampling.from_message(given) == Sampling(0.7, 0.9, 4, 5, 6, ("x",))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature: float) -> None:
    with pytest.raises(TaskError) as refused:
        choose(torch.full((4,), float("nan")), Sampling(temperature=temperature), 0)
    assert refused.value.reason == "GENERATION_FAILED"
