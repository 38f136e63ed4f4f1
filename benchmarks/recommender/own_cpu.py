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
from finetree_recommender import warming
from finetree_recommender.estimator.client import EstimatorClient
from finetree_recommender.messages import recommendation
from finetree_recommender.policy.library import Library
from finetree_recommender.policy.pack import DEFAULT_PACK
from finetree_recommender.recommend import Advisor
from finetree_runtime.server.service import GC_THRESHOLDS

SECONDS = 60.0
"""Longest wait for an answer of the estimator."""
WARM_UP = 100
ROUNDS = 5
LENGTH = struct.Struct(">I")
"""Before each answer in the file: how long it is."""


class Recorder:
    """Asks the estimator, and keeps what it answers: both lists of the catalogue, and the estimates in their order."""

    def __init__(self, client: finetree.AsyncClient) -> None:
        self._client = client
        self._lists = [b"", b""]
        self._answers: list[bytes] = []

    @property
    def found(self) -> list[bytes]:
        """All answers."""
        return self._lists + self._answers

    async def estimate_batch(self, rows: Any, /, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """BatchEstimateRuns."""
        answer = await self._client.raw.estimator.BatchEstimateRuns(rows, timeout=timeout)
        self._answers.append(answer.SerializeToString())
        return _rows(answer)

    async def list_accelerators(self, **_: Any) -> AsyncIterator[est.Accelerator]:
        """ListAccelerators."""
        page = est.ListAcceleratorsResponse(accelerators=[each async for each in self._client.list_accelerators()])
        self._lists[0] = page.SerializeToString()
        for card in page.accelerators:
            yield card

    async def list_models(self, **_: Any) -> AsyncIterator[est.Model]:
        """ListModels."""
        page = est.ListModelsResponse(models=[each async for each in self._client.list_models()])
        self._lists[1] = page.SerializeToString()
        for model in page.models:
            yield model


class Recording:
    """Answers what was recorded: the same requests in the same order ask the same."""

    def __init__(self, found: Iterator[bytes]) -> None:
        self._cards = est.ListAcceleratorsResponse.FromString(next(found)).accelerators
        self._models = est.ListModelsResponse.FromString(next(found)).models
        self._answers = iter([_rows(est.BatchEstimateRunsResponse.FromString(answer)) for answer in found])

    async def estimate_batch(self, _rows: Any, /, **_: Any) -> dict[str, Any]:
        """BatchEstimateRuns."""
        return next(self._answers)

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
        for answer in recorder.found:
            out.write(LENGTH.pack(len(answer)) + answer)


def recorded(file: Path) -> Iterator[bytes]:
    """Answers of a file."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        start = at + LENGTH.size
        at = start + LENGTH.unpack_from(content, at)[0]
        yield content[start:at]


async def measure(file: Path, count: int) -> dict[str, Any]:
    """Microseconds of CPU per recommendation, by round."""
    library = Library()
    advisor = Advisor(library, EstimatorClient(Recording(recorded(file)), SECONDS))
    warm, *fresh = rounds(count)
    await _answer(advisor, warm)
    # As a server finds it in its first seconds.
    for _ in warming.find(library[DEFAULT_PACK]):
        pass
    # As a server does once it has started.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    taken = []
    for asked in fresh:
        began = time.process_time()
        await _answer(advisor, asked)
        taken.append(round((time.process_time() - began) / len(asked) * 1e6, 1))
    return {"own_cpu_us": statistics.median(taken), "rounds": taken}


async def _answer(advisor: Advisor, requests: list[bytes]) -> None:
    for request in requests:
        recommendation.recommendation_bytes(await advisor.recommend(rec.RecommendRequest.FromString(request)))


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
