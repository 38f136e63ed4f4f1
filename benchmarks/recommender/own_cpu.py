# SPDX-License-Identifier: Apache-2.0
"""The recommender's own CPU: from a request's bytes to its reply's, with estimates that are there already.

    python benchmarks/recommender/own_cpu.py --estimator 127.0.0.1:50052 [--requests N]

What a server spends beside this is gRPC's, the client's and the cold caches'. The requests are distinct. A first
process asks the estimator and records what it answers; a second one, which has seen none of the requests but those of
the warm-up, recommends with the recorded answers and is measured.
"""

import argparse
import asyncio
import gc
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import finetree
from finetree_api.estimator.v1 import estimator_pb2 as est
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_recommender import replies
from finetree_recommender.advisor import Advisor
from finetree_recommender.estimator_client import EstimatorClient
from finetree_recommender.library import Library
from finetree_runtime.server import COLLECT_EVERY

SECONDS = 60.0
"""Longest wait for an answer of the estimator."""
WARM_UP = 100
ROUNDS = 3
LENGTHS = struct.Struct(">II")
"""Before each question and its answer in the file: how long both are."""
LISTED = (b"accelerators", b"models")
"""Questions that stand for the two lists of the catalogue."""


class Recorder:
    """Asks the estimator, and keeps what it answers."""

    def __init__(self, client: finetree.AsyncClient) -> None:
        self._client = client
        self.found: dict[bytes, bytes] = {}

    async def estimate_batch(self, rows: Any, /, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """BatchEstimateRuns."""
        answer = await self._client.raw.estimator.BatchEstimateRuns(rows, timeout=timeout)
        self.found[rows.SerializeToString(deterministic=True)] = answer.SerializeToString()
        return _rows(answer)

    async def list_accelerators(self, **_: Any) -> AsyncIterator[est.Accelerator]:
        """ListAccelerators."""
        page = est.ListAcceleratorsResponse(accelerators=[each async for each in self._client.list_accelerators()])
        self.found[LISTED[0]] = page.SerializeToString()
        for card in page.accelerators:
            yield card

    async def list_models(self, **_: Any) -> AsyncIterator[est.Model]:
        """ListModels."""
        page = est.ListModelsResponse(models=[each async for each in self._client.list_models()])
        self.found[LISTED[1]] = page.SerializeToString()
        for model in page.models:
            yield model


class Recording:
    """Answers what was recorded."""

    def __init__(self, found: dict[bytes, bytes]) -> None:
        self._cards = est.ListAcceleratorsResponse.FromString(found[LISTED[0]]).accelerators
        self._models = est.ListModelsResponse.FromString(found[LISTED[1]]).models
        asked = found.items() - {(name, found[name]) for name in LISTED}
        self._answers = {
            question: _rows(est.BatchEstimateRunsResponse.FromString(answer)) for question, answer in asked
        }

    async def estimate_batch(self, rows: Any, /, **_: Any) -> dict[str, Any]:
        """BatchEstimateRuns."""
        return self._answers[rows.SerializeToString(deterministic=True)]

    async def list_accelerators(self, **_: Any) -> AsyncIterator[est.Accelerator]:
        """ListAccelerators."""
        for card in self._cards:
            yield card

    async def list_models(self, **_: Any) -> AsyncIterator[est.Model]:
        """ListModels."""
        for model in self._models:
            yield model


def _rows(answer: est.BatchEstimateRunsResponse) -> dict[str, Any]:
    return {
        row.key: finetree.error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
        for row in answer.results
    }


def rounds(count: int) -> list[list[bytes]]:
    """The warm-up and the measured rounds: requests as bytes."""
    from speed import requests

    sizes = [(WARM_UP, 1), *((count, 10 + number) for number in range(ROUNDS))]
    return [[request.SerializeToString() for request in requests(size, seed)] for size, seed in sizes]


async def record(address: str, file: Path, count: int) -> None:
    """Ask the estimator what all rounds ask, and write it down."""
    async with finetree.AsyncClient(estimator_address=address) as client:
        recorder = Recorder(client)
        advisor = Advisor(Library(), EstimatorClient(recorder, SECONDS))
        for asked in rounds(count):
            await _answer(advisor, asked)
    with file.open("wb") as out:
        for question, answer in recorder.found.items():
            out.write(LENGTHS.pack(len(question), len(answer)) + question + answer)


def recorded(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """Questions and answers of a file."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        first, second = LENGTHS.unpack_from(content, at)
        start = at + LENGTHS.size
        at = start + first + second
        yield content[start : start + first], content[start + first : at]


async def measure(file: Path, count: int) -> dict[str, Any]:
    """Microseconds of CPU per recommendation, by round."""
    advisor = Advisor(Library(), EstimatorClient(Recording(dict(recorded(file))), SECONDS))
    warm, *fresh = rounds(count)
    await _answer(advisor, warm)
    # As a server does once it has started.
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)
    taken = []
    for asked in fresh:
        began = time.process_time()
        await _answer(advisor, asked)
        taken.append(round((time.process_time() - began) / len(asked) * 1e6, 1))
    return {"own_cpu_us": statistics.median(taken), "rounds": taken}


async def _answer(advisor: Advisor, requests: list[bytes]) -> None:
    for request in requests:
        replies.recommendation_bytes(await advisor.recommend(rec.RecommendRequest.FromString(request)))


def main() -> None:
    """Record in a process of its own, measure in this one, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", required=True, help="address of an estimator")
    parser.add_argument("--requests", type=int, default=1000, help="of a round")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record is not None:
        asyncio.run(record(options.estimator, options.record, options.requests))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers"
        subprocess.run([sys.executable, *sys.argv, "--record", str(file)], check=True)
        print(json.dumps(asyncio.run(measure(file, options.requests))))


if __name__ == "__main__":
    main()
