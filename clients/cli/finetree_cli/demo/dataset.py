# SPDX-License-Identifier: Apache-2.0
"""The demo's dataset: ISO 3166 country facts from pycountry, asked in phrasings that training never shows."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import pycountry

MIN_COUNTRIES = 60
"""The demo takes no fewer by itself: they would leave fewer than 120 held-out questions."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class ChatRow(TypedDict):
    """One line of a chat dataset."""

    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Fact:
    """One kind of fact: the field of pycountry that answers it, and the ways to ask for it."""

    field: str
    taught: tuple[str, ...]
    held_out: str


@dataclass(frozen=True, slots=True)
class DemoData:
    """Rows to train on and rows to ask; every question's answer is taught, its wording never is."""

    train_rows: list[ChatRow]
    eval_rows: list[ChatRow]
    countries: int


SYSTEM = "Answer with the code alone."
"""The system message of every row: it says what shape an answer has, so that the base model can know it too."""

ROWS_PER_FACT = 4
"""In how many of its phrasings a fact is taught; the phrasings take turns from country to country.

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
"""What is asked: codes of ISO 3166-1."""


def build(countries: int, seed: int) -> DemoData:
    """Questions and answers about `countries` countries, chosen by `seed` among the 249 of ISO 3166-1.

    Each fact is taught in `ROWS_PER_FACT` phrasings and asked in one that is never taught. Raises ValueError below 1
    and above what the standard lists. Below `MIN_COUNTRIES` the questions are too few to measure by; it is enough to
    see that everything works.
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
        for ask in _turn(fact.taught, number)
    ]
    asked = [_row(fact.held_out, name, answers[fact.field]) for name, answers in chosen for fact in FACTS]
    random.Random(seed + 1).shuffle(train)
    return DemoData(train, asked, countries)


def _turn(phrasings: tuple[str, ...], number: int) -> Iterator[str]:
    """The phrasings whose turn it is for the country of that number."""
    return (phrasings[(number * ROWS_PER_FACT + i) % len(phrasings)] for i in range(ROWS_PER_FACT))


def available() -> Sequence[tuple[str, dict[str, str]]]:
    """All countries, sorted by name: (name, {field: code}). The common name is used where ISO's is an inverted one."""
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
