# SPDX-License-Identifier: Apache-2.0
"""The two tasks that the methods are compared on: rows to train on and held-out rows, for scoring and for tuning.

`codes`: codes of ISO 3166 from pycountry, asked in wordings that training never shows, as `finetree demo` does it.

`tweets`: does a tweet sound positive, negative or neutral? The tweets and their ratings (means of at least 20 people,
-4 to 4) are those of C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text", ICWSM 2014, which the source distribution of vaderSentiment 3.3.2 carries under the MIT license.
"""

import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
"""Seeds whose held-out rows count."""
TUNING_SEED = 1000
"""Of the rows that learning rates are tuned on: codes of countries that no scored seed chooses."""
COUNTRIES, TUNING_COUNTRIES = 60, 15
TWEETS, HELD_OUT_TWEETS = 300, 150

VADER = "vaderSentiment==3.3.2"
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_TWEETS = "hutto_ICWSM_2014/tweets_GroundTruth.txt"
LABELS = ("positive", "negative", "neutral")
TWEETS_SYSTEM = "Say whether the message is positive, negative or neutral. Answer with that word alone."
CLEAR, NEAR_ZERO = 1.0, 0.5
"""Mean ratings from which on a tweet is positive (or negative), and below which it is neutral; others are left out."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run trains on and what it is asked afterwards."""

    train: list[Row]
    held_out: list[Row]


def rows(task: str, seed: int, folder: Path) -> Rows:
    """The rows of a task: those of a scored seed, or codes to tune on. `folder` keeps what was downloaded."""
    if task == "codes":
        return codes_to_tune() if seed == TUNING_SEED else codes(seed)
    return tweets(rated_tweets(vader(folder)), seed)


@cache
def codes(seed: int) -> Rows:
    """The demo's rows about 60 countries."""
    from finetree_cli.demo.dataset import build

    built = build(COUNTRIES, seed)
    return Rows(_plain(built.train_rows), _plain(built.eval_rows))


@cache
def codes_to_tune() -> Rows:
    """The demo's rows about 15 countries that no scored seed chooses."""
    from finetree_cli.demo.dataset import FACTS, available, build

    scored = {question(row) for seed in SEEDS for row in codes(seed).held_out}
    names = [name for name, _ in available() if FACTS[0].held_out.format(name=name) not in scored]
    chosen = random.Random(TUNING_SEED).sample(names, TUNING_COUNTRIES)
    asked = {fact.held_out.format(name=name) for name in chosen for fact in FACTS}
    taught = {ask.format(name=name) for name in chosen for fact in FACTS for ask in fact.trained}
    everything = build(len(available()), TUNING_SEED)
    return Rows(
        [row for row in _plain(everything.train_rows) if question(row) in taught],
        [row for row in _plain(everything.eval_rows) if question(row) in asked],
    )


def question(row: Row) -> str:
    """What the user of a row says."""
    return str(row["messages"][-2]["content"])


def _plain(listed: Any) -> list[Row]:
    return [dict(row) for row in listed]


def tweets(rated: list[tuple[str, str]], seed: int) -> Rows:
    """As many tweets of each label, chosen and put in order by the seed."""
    chance, train, held_out = random.Random(seed), [], []
    learned, asked = TWEETS // len(LABELS), HELD_OUT_TWEETS // len(LABELS)
    for label in LABELS:
        chosen = chance.sample([_tweet(text, label) for text, found in rated if found == label], learned + asked)
        train += chosen[:learned]
        held_out += chosen[learned:]
    chance.shuffle(train)
    chance.shuffle(held_out)
    return Rows(train, held_out)


def _tweet(text: str, label: str) -> Row:
    turns = (("system", TWEETS_SYSTEM), ("user", text), ("assistant", label))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@cache
def rated_tweets(archive: Path) -> list[tuple[str, str]]:
    """What `read_tweets` finds, read once."""
    return read_tweets(archive)


def read_tweets(archive: Path) -> list[tuple[str, str]]:
    """Tweets whose raters agree, with their label; each text once.

    Raises ValueError for an archive that is not the one whose hash stands above.
    """
    data = archive.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != VADER_SHA256:
        message = f"{archive.name} has the sha256 {found}, not {VADER_SHA256}: remove it, to fetch it again"
        raise ValueError(message)
    inner = _member(data, _INNER)
    text = _member(inner, _TWEETS).decode("utf-8", errors="replace")
    return list(labelled(text.splitlines()))


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        member = files.extractfile(name)
        assert member is not None, name
        return member.read()


def labelled(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(text, label) of lines "id, mean rating, text", separated by tabs; what is unclear or damaged is left out."""
    seen: set[str] = set()
    for line in lines:
        _, rating, text = line.split("\t", 2)
        label = label_of(float(rating))
        if label and text not in seen and "\ufffd" not in text:
            seen.add(text)
            yield text.strip(), label


def label_of(rating: float) -> str:
    """The label of a mean rating; empty where it is not clear."""
    if abs(rating) >= CLEAR:
        return "positive" if rating > 0 else "negative"
    return "neutral" if abs(rating) < NEAR_ZERO else ""


def vader(folder: Path) -> Path:
    """The source distribution below `folder`, fetched by pip unless it is there."""
    archive = folder / "vaderSentiment-3.3.2.tar.gz"
    if not archive.is_file():
        pip = Path(__file__).parents[2] / ".bootstrap" / "bin" / "python"
        command = [str(pip), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--no-binary=vaderSentiment", f"--dest={folder}", VADER], check=True)
    return archive
