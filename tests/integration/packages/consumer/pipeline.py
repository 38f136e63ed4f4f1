# SPDX-License-Identifier: Apache-2.0
"""A program that uses the SDK as others do: every kind of call, its result and its errors, with precise types."""

import pickle
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

import finetree
from finetree import Client, FinetreeError, Job
from finetree.money import to_float
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, model_pb2, run_spec_pb2


def recommend(client: Client) -> recommendation_pb2.RecommendResponse:
    """Ask in words; a wrong word is an error of the type checker."""
    answer = client.recommend(
        model="llama-3.1-8b",
        gpu="rtx-4090",
        quality="maximum",
        max_duration=timedelta(hours=8),
        budget_per_run="50 USD",
    )
    assert_type(answer.verdict.headline, str)
    assert_type(answer.spec, run_spec_pb2.RunSpec)
    return answer


def affordable(client: Client, spec: run_spec_pb2.RunSpec, *, usd: float) -> bool:
    """Estimate, check, and compare."""
    estimate = client.estimate(spec, view="FULL")
    assert_type(estimate, estimate_pb2.Estimate)
    assert_type(estimate.memory.device_bytes.expected, float)
    others = client.estimate_batch({"lora": spec, "qlora": {"model": {"name": "tiny"}, "qlora": {"rank": 8}}})
    for key, found in others.items():
        assert_type(key, str)
        if isinstance(found, FinetreeError):
            print(found.reason, [violation.field for violation in found.violations])
        else:
            print(found.cost.total.amount.expected)
    checks = client.check_plan(spec, {"cost": f"{usd} USD", "fit": True}).checks
    return all(check.verdict for check in checks) and to_float(estimate.cost.hourly_price) < usd


def train(client: Client, answer: recommendation_pb2.RecommendResponse, rows: Path) -> Path:
    """Upload, train, follow, download."""
    dataset = client.upload_dataset(rows)
    job = client.train(answer, display_name="nightly", labels={"team": "search"}, limits={"max_cost": "5 USD"})
    assert_type(job, Job)
    print(dataset.name, job.request_id, job.cursor)
    for event in job.events(kinds=("step_metrics", "terminal"), min_level="info"):
        assert_type(event, event_pb2.JobEvent)
        print(event.seq, finetree.to_text(event))
    done = job.watch(check=True, timeout=3600)
    assert_type(done, job_pb2.Job)
    folders = job.download("adapter", on_progress=lambda so_far, of: print(so_far / max(of, 1)))
    assert_type(folders, dict[str, Path])
    return next(iter(folders.values()))


def models(client: Client) -> Iterator[str]:
    """Lists are lazy and typed."""
    for model in client.list_models("smollm2"):
        assert_type(model, catalog_pb2.Model)
        yield model.name
    for page in client.list_jobs(states=("running",)).pages():
        assert_type([job.state for job in page], list[job_pb2.JobState.ValueType])


def spec() -> run_spec_pb2.RunSpec:
    """Messages are built with their fields' types."""
    return run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(name="smollm2-135m-instruct"), lora=method_pb2.Lora(rank=8, alpha=16)
    )


def main() -> None:
    """Use it all; errors are one tree, and pickle."""
    with Client(profile="prod", token=lambda: "t", timeout=5.0) as client:
        try:
            answer = recommend(client)
            if affordable(client, answer.spec, usd=50):
                train(client, answer, Path("train.jsonl"))
        except finetree.PlanDrift as error:
            print(error.violations)
        except finetree.JobFailed as error:
            print(error.terminal.error.message, error.job)
        except FinetreeError as error:
            print(pickle.loads(pickle.dumps(error)), error.retry_after, error.metadata.get("oldest_seq"))


if __name__ == "__main__":
    main()
