# SPDX-License-Identifier: Apache-2.0
"""Versions of formulas, catalog, prices and calibration, each with the hash of its content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.catalog.models import models
from finetree_estimator.catalog.names import raw
from finetree_estimator.catalog.price_book import PriceBook

ENGINE_ID = "engine-1"
"""Changes when formulas change, so that equal requests with equal data may get other answers."""
ENGINE_DATE = "2026-12-07"
"""Day of the last change of the formulas."""
FORMULAS = ("catalog", "evidence", "memory", "methods", "shapes", "spec", "timing", "whatif")
"""Packages with code that affects numbers; the engine's hash covers them and the modules at the top."""
CATALOG = ("models.csv", "accelerators.csv", "links.csv", "rate_classes.csv", "evidence.csv", "playbook.json")
"""Data files that the catalog's hash covers; the price book has its own."""


@dataclass(frozen=True, slots=True)
class Part:
    """A versioned part: name, SHA-256 and date of its content."""

    part_id: str
    sha256: str
    date: str


def parts(book: PriceBook, calibration: Part) -> dict[str, Part]:
    """Versions of all parts, by field name of the contract's Revision."""
    return {
        "engine": _engine(),
        "catalog": _catalog(),
        "price_book": Part(book.book_id, book.sha256, _day(book.date)),
        "calibration": calibration,
    }


def formulas() -> tuple[Part, Part]:
    """Versions of engine and catalog, on which predictions of memory and time depend."""
    return _engine(), _catalog()


@cache
def _engine() -> Part:
    package = resources.files("finetree_estimator")
    folders = [package, *(package.joinpath(room) for room in FORMULAS)]
    files = {f"{folder.name}/{file.name}": file for folder in folders for file in folder.iterdir() if file.is_file()}
    sources = b"".join(files[name].read_bytes() for name in sorted(files) if name.endswith(".py"))
    return Part(ENGINE_ID, hashlib.sha256(sources).hexdigest(), ENGINE_DATE)


@cache
def _catalog() -> Part:
    digest = hashlib.sha256(b"".join(map(raw, CATALOG))).hexdigest()
    date = max([entry.date for entry in models()] + [entry.date for entry in accelerators()])
    return Part(f"catalog-{date}", digest, _day(date))


def _day(date: str) -> str:
    """Pad a year or a month in ISO 8601 to its first day, as the contract's revision dates are days."""
    return date + "-01" * ((10 - len(date)) // 3) if date else ""
