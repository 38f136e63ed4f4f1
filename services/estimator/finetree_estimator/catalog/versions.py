# SPDX-License-Identifier: Apache-2.0
"""What an answer was computed with: formulas, catalogue, prices and calibration, each with the hash of its content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.catalog.models import models
from finetree_estimator.catalog.names import raw
from finetree_estimator.catalog.price_book import PriceBook

ENGINE_ID = "engine-1"
"""Changes when the same request may get another answer for another reason than its data."""
ENGINE_DATE = "2026-11-26"
"""Day of the last such change."""
FORMULAS = ("catalog", "evidence", "memory", "methods", "spec", "timing", "whatif")
"""Rooms that decide the numbers; the engine's hash covers their modules and those beside the rooms."""
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
        "price_book": Part(book.book_id, book.sha256, _day(book.date)),
        "calibration": calibration,
    }


def formulas() -> tuple[Part, Part]:
    """What a prediction of memory and time depends on besides the request."""
    return _engine(), _catalogue()


@cache
def _engine() -> Part:
    package = resources.files("finetree_estimator")
    folders = [package, *(package.joinpath(room) for room in FORMULAS)]
    files = {f"{folder.name}/{file.name}": file for folder in folders for file in folder.iterdir() if file.is_file()}
    sources = b"".join(files[name].read_bytes() for name in sorted(files) if name.endswith(".py"))
    return Part(ENGINE_ID, hashlib.sha256(sources).hexdigest(), ENGINE_DATE)


@cache
def _catalogue() -> Part:
    digest = hashlib.sha256(b"".join(map(raw, CATALOGUE))).hexdigest()
    date = max([entry.date for entry in models()] + [entry.date for entry in accelerators()])
    return Part(f"catalogue-{date}", digest, _day(date))


def _day(date: str) -> str:
    """The first day of a year, a month or a day in ISO 8601: the contract dates a revision by a day."""
    return date + "-01" * ((10 - len(date)) // 3) if date else ""
