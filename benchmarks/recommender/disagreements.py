# SPDX-License-Identifier: Apache-2.0
"""Where the two built-in packs disagree over the 720 answer sets of the five questions.

Each set is asked of the recommender twice: by the rules alone, and with the estimates of a 7B model on a GPU of the
size that was answered (4 GB for "less than 8"). Nothing is timed; the same packs and estimator give the same file.

    .venv/bin/python benchmarks/recommender/disagreements.py --output benchmarks/results/recommender
"""

import argparse
import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.estimator.client import EstimatorClient
from finetree_recommender.estimator.subprocess import EstimatorProgram
from finetree_recommender.estimator.values import Catalog, EstimatorUnavailableError, Evidence
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation, Recommender
from finetree_recommender.rule_pack.library import Library
from finetree_recommender.rule_pack.pack import DEFAULT_PACK, Pack
from google.protobuf import json_format

OTHER = "evidence-1"
MODEL = "llama-2-7b"
DATA = {"examples": 1000}
NOT_ASKED = {"memory": ("cpu",), "budget": ("usd_500_2000",), "quality": ("MAXIMUM",)}
"""Answers of the packs that the five questions do not have."""
SECONDS = 60.0


class NoEstimator:
    """Estimator that never answers."""

    async def catalog(self) -> Catalog:
        """Raise: there is no estimator."""
        raise EstimatorUnavailableError("no estimator")

    async def evidence(self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]) -> Evidence:
        """Raise: there is no estimator."""
        raise EstimatorUnavailableError(f"no estimator for {len(rows)} rows")

    async def estimates(
        self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]
    ) -> dict[Method, estimate_pb2.Estimate]:
        """Raise: there is no estimator."""
        raise EstimatorUnavailableError(f"no estimator for {len(rows)} rows")


def answer_sets(pack: Pack) -> Iterator[tuple[dict[str, str], recommendation_pb2.RecommendRequest]]:
    """The 720 answer sets, each with the request that its answers make."""
    choices = [
        [
            (question.input, option)
            for option in question.options
            if option.value not in NOT_ASKED.get(question.input, ())
        ]
        for question in pack.rules.questions
    ]
    for chosen in itertools.product(*choices):
        request = json_format.ParseDict(
            {"model": {"name": MODEL}, "dataset_profile": DATA}, recommendation_pb2.RecommendRequest()
        )
        for _, option in chosen:
            request.MergeFrom(json_format.Parse(option.request, recommendation_pb2.RecommendRequest()))
        yield {name: option.value for name, option in chosen}, request


def method_of(answer: Recommendation) -> str:
    """The verdict's method; "upgrade" for none."""
    return str(answer.decision.method or "upgrade")


async def compare(recommender: Recommender, pack: Pack) -> dict[str, Any]:
    """How often each pair of verdicts comes, and each pair that differs by memory and by the rules that decide."""
    pairs: Counter[tuple[str, str]] = Counter()
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for answers, request in answer_sets(pack):
        answer = await recommender.recommend(request)
        other = next(item for item in answer.others if item.pack.rules.id == OTHER)
        ours, theirs = method_of(answer), str(other.method or "upgrade")
        pairs[ours, theirs] += 1
        if not other.agrees:
            key = (answers["memory"], ours, theirs, answer.decision.verdict.rule_id, other.rule_id)
            group = groups.setdefault(key, {"count": 0, "example": answers, "reason": other.reason})
            group["count"] += 1
    names = ("memory", DEFAULT_PACK, OTHER, "rule", "other_rule")
    return {
        "answer_sets": pairs.total(),
        "agree": sum(count for (ours, theirs), count in pairs.items() if ours == theirs),
        "pairs": [{DEFAULT_PACK: a, OTHER: b, "count": count} for (a, b), count in sorted(pairs.items())],
        "differing": [dict(zip(names, key, strict=True)) | group for key, group in sorted(groups.items())],
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    lines = [
        "# Where the two packs disagree",
        "",
        f"`{DEFAULT_PACK}` and `{OTHER}` over the 720 answer sets of the five questions.",
    ]
    for title, name in (("By the rules alone", "rules_alone"), (f"With the estimates of {MODEL}", "estimated")):
        found = result[name]
        lines += ["", f"## {title}", "", f"They agree on {found['agree']} of {found['answer_sets']}.", ""]
        lines += [f"| {DEFAULT_PACK} | {OTHER} | answer sets |", "| --- | --- | ---: |"]
        lines += [f"| {row[DEFAULT_PACK]} | {row[OTHER]} | {row['count']} |" for row in found["pairs"]]
        lines += [
            "",
            f"| GPU | {DEFAULT_PACK} | {OTHER} | answer sets | for example | why |",
            "| --- | --- | --- | ---: | --- | --- |",
        ]
        for row in found["differing"]:
            example = ", ".join(value.lower() for name, value in row["example"].items() if name != "memory")
            cells = (row["memory"], row[DEFAULT_PACK], row[OTHER], row["count"], example, row["reason"])
            lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


async def ask() -> dict[str, Any]:
    """The whole result."""
    library = Library()
    pack = library[DEFAULT_PACK]
    with EstimatorProgram() as program:
        estimated = await compare(Recommender(library, EstimatorClient(program, SECONDS)), pack)
    return {
        "packs": {name: library[name].sha256 for name in (DEFAULT_PACK, OTHER)},
        "model": MODEL,
        "data": DATA,
        "rules_alone": await compare(Recommender(library, NoEstimator()), pack),
        "estimated": estimated,
    }


def write(output: Path, result: Mapping[str, Any]) -> None:
    """Write both files."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "disagreements.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (output / "disagreements.md").write_text(as_markdown(result), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/recommender"))
    write(parser.parse_args().output, asyncio.run(ask()))
