# SPDX-License-Identifier: Apache-2.0
"""What an answer was computed with: formulas, catalogue, prices and calibration, each with the hash of its content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from finetree_estimator.accelerators import accelerators
from finetree_estimator.models import models
from finetree_estimator.names import raw
from finetree_estimator.quotes import PriceBook

ENGINE_ID = "engine-1"
"""Changes when the same request may get another answer for another reason than its data."""
ENGINE_DATE = "2026-11-26"
"""Day of the last such change."""
FORMULAS = (
    "accelerators",
    "activations",
    "against_playbook",
    "calibration",
    "choices",
    "confidence",
    "constants",
    "correction",
    "cost",
    "cpu_memory",
    "cpu_tensors",
    "devices",
    "distance",
    "durations",
    "elsewhere",
    "elementwise",
    "engine",
    "evidence",
    "factors",
    "fallbacks",
    "fit",
    "holdings",
    "intervals",
    "layouts",
    "leftovers",
    "lookups",
    "memory",
    "methods",
    "models",
    "moments",
    "names",
    "parameters",
    "playbook",
    "prices",
    "programs",
    "quotes",
    "reading",
    "recipe",
    "rows",
    "run",
    "scores",
    "shapes",
    "sharing",
    "steptime",
    "stored",
    "traffic",
    "whole",
)
"""Modules that decide the numbers; the engine's hash covers them."""
CATALOGUE = ("models.csv", "accelerators.csv", "links.csv", "rate_classes.csv", "evidence.csv", "playbook.json")
"""Data files that decide what is answered beside the price book; the catalogue's hash covers them."""


@dataclass(frozen=True, slots=True)
class Part:
    """One versioned piece: a name for people, the hash that proves it, the date of its content."""

    part_id: str
    sha256: str
    date: str


def parts(book: PriceBook, calibration: Part) -> dict[str, Part]:
    """What this program computes with, by the contract's field names."""
    return {
        "engine": _engine(),
        "catalogue": _catalogue(),
        "price_book": Part(book.book_id, book.sha256, book.date),
        "calibration": calibration,
    }


def formulas() -> tuple[Part, Part]:
    """What a prediction of memory and time depends on besides the request."""
    return _engine(), _catalogue()


@cache
def _engine() -> Part:
    package = resources.files("finetree_estimator")
    sources = b"".join(package.joinpath(f"{name}.py").read_bytes() for name in FORMULAS)
    return Part(ENGINE_ID, hashlib.sha256(sources).hexdigest(), ENGINE_DATE)


@cache
def _catalogue() -> Part:
    digest = hashlib.sha256(b"".join(map(raw, CATALOGUE))).hexdigest()
    date = max([entry.date for entry in models()] + [entry.date for entry in accelerators()])
    return Part(f"catalogue-{date}", digest, date)
