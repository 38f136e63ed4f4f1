# SPDX-License-Identifier: Apache-2.0
"""The stages of the demo. The recipe is the recommender's: no value of it is set here."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from finetree.spec import plan_of
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, dataset_pb2, event_pb2
from finetree_api.types.v1 import model_pb2, run_spec_pb2, training_pb2

from finetree_cli.backends.suite import Suite, default_data_dir
from finetree_cli.demo import dataset, sizing
from finetree_cli.demo.report import Outcome, show_outcome
from finetree_cli.errors import StillRunning
from finetree_cli.follow import follow
from finetree_cli.options.command import Settings
from finetree_cli.options.spec import RATE_WAIT_SECONDS, source_of, this_machine
from finetree_cli.output import Output
from finetree_cli.render import units
from finetree_cli.render.trainer.capacity import host
from finetree_cli.render.trainer.dataset import split

if TYPE_CHECKING:
    from finetree import Client, Job

MODEL = "smollm2-135m-instruct"
"""Model whose weights come from the package index, so that the demo needs no model hub."""
SEED = 0
"""Seed of the choice of countries."""
SAMPLES = 2
"""Number of answers to show."""
STAGES = 8
METHOD_SETTINGS = ("rank", "alpha", "targets", "frozen_layers", "virtual_tokens", "bottleneck_size")
TRAINING_SETTINGS = (
    "training.epochs",
    "training.learning_rate",
    "training.effective_batch_size",
    "training.sequence_length",
    "precision",
)
"""Values of the recipe that are shown without --verbose, where it has them."""
CANCEL_SECONDS = 60.0
"""Longest wait for the job of an interrupted demo to stop: the trainer's two grace times of 20 s, and a margin."""


@dataclass(slots=True)
class Data:
    """The demo's datasets; their profiles are set once the PREPARE job has counted their tokens."""

    countries: int
    train: dataset_pb2.Dataset
    evaluation: dataset_pb2.Dataset
    longest_answer: int
    """Length of the longest answer in characters."""


def run(settings: Settings, countries: int | None, data_dir: Path | None, *, verbose: bool = False) -> None:
    """Run the demo; `verbose` shows all methods and the whole recipe."""
    # A terminated demo must stop its suite as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = (data_dir or default_data_dir() / "demo").absolute()
    demo = Demo(settings.out, folder, verbose)
    demo.stage("starting estimator, recommender and trainer on this machine")
    with Suite(folder) as suite:
        demo.note(", ".join(f"{name} {address}" for name, address in suite.addresses.items()))
        found = suite.addresses
        here = Settings(
            recommender=found["recommender"],
            estimator=found["estimator"],
            trainer=found["trainer"],
            profile="",
            out=settings.out,
        )
        with here.client() as client:
            outcome = demo.run(client, countries)
    show_outcome(settings.out, outcome)


@dataclass(slots=True)
class Demo:
    """Runs the stages and prints each."""

    out: Output
    folder: Path
    verbose: bool = False
    number: int = 0
    started: float = field(default_factory=time.monotonic)

    def stage(self, text: str) -> None:
        """Print the heading of a stage."""
        self.number += 1
        self._line(f"[{self.number}/{STAGES}] {text}  ({units.duration(time.monotonic() - self.started)})")

    def note(self, text: str) -> None:
        """Print a line about the stage."""
        self._line(f"      {text}")

    def run(self, client: "Client", countries: int | None) -> Outcome:
        """Run the stages 2 to 8."""
        capacity = self._measure(client)
        data = self._build(client, capacity, countries)
        self._prepare(client, data)
        answer = self._ask(client, capacity, data)
        estimate = self._estimate(client, answer, capacity, data)
        return self._train(client, answer, estimate, capacity, data)

    def _measure(self, client: "Client") -> capacity_pb2.GetCapacityResponse:
        self.stage("measuring this machine")
        capacity = client.capacity(wait_for_rate=RATE_WAIT_SECONDS)
        for node in capacity.nodes:
            self.note(host(node))
        return capacity

    def _build(self, client: "Client", capacity: capacity_pb2.GetCapacityResponse, countries: int | None) -> Data:
        self.stage("building a dataset of country codes (ISO 3166) and uploading it")
        size = sizing.choose(capacity, countries)
        built = dataset.build(size.countries, SEED)
        self.note(f"{size.countries} countries: {size.reason}")
        self.note(f"{len(built.train_rows)} training rows, {len(built.eval_rows)} held-out questions in other words")
        train = client.upload_dataset(built.train_rows, display_name="demo: country codes")
        held_out = client.upload_dataset(built.eval_rows, display_name="demo: country codes, held out")
        longest = max(len(row["messages"][-1]["content"]) for row in built.eval_rows)
        return Data(size.countries, train, held_out, longest)

    def _prepare(self, client: "Client", data: Data) -> None:
        self.stage(f"preparing {MODEL} and counting tokens")

        def seen(event: event_pb2.JobEvent) -> None:
            if event.WhichOneof("payload") == "dataset_report":
                self.note(_counted(event.dataset_report))

        job = client.prepare(
            model=MODEL,
            dataset=data.train.name,
            evaluation_dataset=data.evaluation.name,
            display_name="demo: prepare",
        )
        self._follow(job, seen)
        # The trainer's own profiles: the plan that is approved below must be the one that it resolves.
        data.train = client.get_dataset(data.train.name)
        data.evaluation = client.get_dataset(data.evaluation.name)

    def _ask(
        self, client: "Client", capacity: capacity_pb2.GetCapacityResponse, data: Data
    ) -> recommendation_pb2.RecommendResponse:
        self.stage("recommending a method and a recipe")
        machine = this_machine(capacity)
        request = recommendation_pb2.RecommendRequest(
            model=model_pb2.ModelSource(name=MODEL),
            hardware=machine.hardware,
            matrix_rates=machine.matrix_rates,
            dataset=source_of(data.train),
            dataset_profile=data.train.profile,
            evaluation=_evaluation(data),
            evaluation_profile=data.evaluation.profile,
            task_domain=recommendation_pb2.TASK_DOMAIN_KNOWLEDGE,
        )
        answer = client.recommend(request)
        self.note(answer.verdict.headline)
        for caution in answer.cautions:
            self.note(f"caution: {caution.message}")
        if self.verbose and not self.out.json:
            from finetree_cli.render.recommender.recommendation import show_methods, show_recipe

            show_methods(self.out, answer)
            show_recipe(self.out, answer)
        else:
            for name, value in decisive(answer.spec):
                self.note(f"{name:<21} {value}")
            self.note("the other methods, and every value with its reason: finetree demo --verbose")
        return answer

    def _estimate(
        self,
        client: "Client",
        answer: recommendation_pb2.RecommendResponse,
        capacity: capacity_pb2.GetCapacityResponse,
        data: Data,
    ) -> estimate_pb2.Estimate:
        self.stage("estimating memory, time and cost")
        estimate = client.estimate(
            answer.spec,
            dataset_profile=data.train.profile,
            evaluation_profile=data.evaluation.profile,
            matrix_rates=this_machine(capacity).matrix_rates,
        )
        self.note(f"memory {units.size_range(estimate.memory.device_bytes)}")
        self.note(f"time {units.duration_range(estimate.time.total_seconds)}, {estimate.optimizer_steps} steps")
        if estimate.cost.HasField("total"):
            self.note(f"cost {units.money_range(estimate.cost.total)}")
        return estimate

    def _train(
        self,
        client: "Client",
        answer: recommendation_pb2.RecommendResponse,
        estimate: estimate_pb2.Estimate,
        capacity: capacity_pb2.GetCapacityResponse,
        data: Data,
    ) -> Outcome:
        self.stage("training the recommended recipe, with an evaluation before and after")
        plan = plan_of(answer, dataset_profile=data.train.profile)
        job = client.train(answer.spec, display_name="demo", approved_plan=plan, recommendation=answer)
        self.note(f"job {job.name}")
        outcome = Outcome(job.name, answer, estimate, capacity, data.countries, data_dir=self.folder)
        outcome.terminal = self._follow(job, outcome.see)
        self.stage("downloading the artifacts")
        outcome.spec = job.refresh().train.spec
        outcome.folders = job.download(self.folder / "artifacts" / job.uid)
        outcome.artifacts = job.artifacts()
        return outcome

    def _follow(self, job: "Job", seen: Callable[[event_pb2.JobEvent], None]) -> event_pb2.Terminal:
        """Follow a job on stderr; Ctrl-C cancels the job too, since its suite stops."""
        try:
            return follow(Settings(out=Output()), job, seen=seen)
        except StillRunning:
            self.note("interrupted: stopping the job")
            job.cancel()
            job.wait(timeout=CANCEL_SECONDS)
            raise click.Abort from None

    def _line(self, text: str) -> None:
        if self.out.json:
            self.out.say(text)
        else:
            self.out.text(text)


def decisive(spec: run_spec_pb2.RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the values of a recipe that somebody who knows the field looks for first: the method's, then training's."""
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.recommendation import flat

    method = spec.WhichOneof("method") or ""
    values = flat(as_dict(spec))
    for name in METHOD_SETTINGS:
        path = next((f"{place}.{name}" for place in (method, f"{method}.lora") if f"{place}.{name}" in values), "")
        if path:
            yield path, _plain(values[path])
    for name in TRAINING_SETTINGS:
        if name in values:
            yield name.removeprefix("training."), _plain(values[name])


def _plain(value: str) -> str:
    """Write an enum's value as a word: "all linear" for "TARGET_PRESET_ALL_LINEAR"."""
    for prefix in ("TARGET_PRESET_", "PRECISION_"):
        if value.startswith(prefix):
            return value.removeprefix(prefix).replace("_", " ").lower()
    return value


def _evaluation(data: Data) -> training_pb2.Evaluation:
    """Build the evaluation: loss and exact match, before and after, with room for the longest answer.

    A token has at least one character, and the end of an answer is one more token.
    """
    return training_pb2.Evaluation(
        dataset=source_of(data.evaluation),
        metrics=[training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH],
        before_training=True,
        samples=SAMPLES,
        max_new_tokens=data.longest_answer + 1,
    )


def _counted(report: event_pb2.DatasetReport) -> str:
    profile = report.profile
    targets = f"{report.target_tokens} targets" if report.target_tokens else f"{profile.target_fraction:.0%} targets"
    longest = f", longest row {report.longest_row_tokens}" if report.longest_row_tokens else ""
    return f"{split(report.split)}: {profile.examples} rows, {profile.total_tokens} tokens, {targets}{longest}"
