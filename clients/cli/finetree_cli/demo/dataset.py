# SPDX-License-Identifier: Apache-2.0
"""The demo's dataset: ISO 3166 country codes from pycountry; evaluation uses phrasings that are not trained on."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import pycountry

MIN_COUNTRIES = 60
"""Smallest number of countries that the demo chooses: it gives 120 held-out questions."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class ChatRow(TypedDict):
    """One line of a chat dataset."""

    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind of fact: the field of pycountry with the answer, and the phrasings of the question."""

    field: str
    trained: tuple[str, ...]
    held_out: str


@dataclass(frozen=True, slots=True)
class DemoData:
    """Training rows and evaluation rows; every answer is trained, the evaluation's phrasings are not."""

    train_rows: list[ChatRow]
    eval_rows: list[ChatRow]
    countries: int


SYSTEM = "Answer with the code alone."
"""System message of every row: it fixes the form of an answer for the base model too."""

ROWS_PER_FACT = 4
"""Number of phrasings in which a fact is trained; they alternate from country to country.

Measured with SmolLM2-135M-Instruct, LoRA rank 8, 60 countries, three epochs, learning rate 5e-4, batch 4, as the share
of the held-out questions that are answered: three rows a fact out of the same three phrasings 39 %, three out of eight
78 %, four of the same four 98 %, four out of eight 100 %.
"""

FACTS = (
    Fact(
        "alpha_3",
        (
            "What is the three-letter country code of {name}?",
            "Give the ISO alpha-3 code for {name}.",
            "Which three letters stand for {name} in ISO 3166?",
            "{name}: alpha-3 code?",
            "Please write the alpha-3 code that {name} has.",
            "I need the alpha-3 code for {name}.",
            "How is {name} abbreviated as an alpha-3 code?",
            "Look up {name} and tell me its alpha-3 code.",
        ),
        "A form asks for the alpha-3 code of {name}; what do I enter?",
    ),
    Fact(
        "numeric",
        (
            "What is the numeric country code of {name}?",
            "Give the ISO numeric code for {name}.",
            "Which three digits stand for {name} in ISO 3166?",
            "{name}: numeric code?",
            "Please write the numeric code that {name} has.",
            "I need the numeric code for {name}.",
            "How is {name} abbreviated as a numeric code?",
            "Look up {name} and tell me its numeric code.",
        ),
        "A form asks for the numeric code of {name}; what do I enter?",
    ),
)
"""The kinds of facts: codes of ISO 3166-1."""


def build(countries: int, seed: int) -> DemoData:
    """Build rows about `countries` countries, chosen by `seed` among the 249 of ISO 3166-1.

    Each fact is trained in `ROWS_PER_FACT` phrasings and evaluated in another one. Below `MIN_COUNTRIES` there are too
    few questions for a meaningful accuracy.

    Raises:
        ValueError: `countries` is below 1 or above the number of countries in the standard.
    """
    names = available()
    if not 1 <= countries <= len(names):
        message = f"countries must be between 1 and {len(names)}, got {countries}"
        raise ValueError(message)
    chosen = random.Random(seed).sample(names, countries)
    train = [
        _row(ask, name, answers[fact.field])
        for number, (name, answers) in enumerate(chosen)
        for fact in FACTS
        for ask in _alternate(fact.trained, number)
    ]
    asked = [_row(fact.held_out, name, answers[fact.field]) for name, answers in chosen for fact in FACTS]
    random.Random(seed + 1).shuffle(train)
    return DemoData(train, asked, countries)


def _alternate(phrasings: tuple[str, ...], number: int) -> Iterator[str]:
    """Yield the phrasings for the country of that number."""
    return (phrasings[(number * ROWS_PER_FACT + i) % len(phrasings)] for i in range(ROWS_PER_FACT))


def available() -> Sequence[tuple[str, dict[str, str]]]:
    """List all countries by name: (name, {field: code}); the common name in place of ISO's inverted one."""
    listed = [
        (
            str(getattr(country, "common_name", country.name)),
            {fact.field: str(getattr(country, fact.field)) for fact in FACTS},
        )
        for country in pycountry.countries
    ]
    return sorted(listed)


def _row(question: str, name: str, answer: str) -> ChatRow:
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question.format(name=name)},
            {"role": "assistant", "content": answer},
        ]
    }
