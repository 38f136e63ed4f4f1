# SPDX-License-Identifier: Apache-2.0
"""A training task: load, tokenize, evaluate, train, evaluate again, save."""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker import card, device_memory, randomness
from finetree_worker.atomic_files import atomic_folder, hash_of, storage_errors
from finetree_worker.card import Record
from finetree_worker.control import STOPS, Control, Signal, Steering
from finetree_worker.data.dataset import Dataset, load_dataset, require_accepted
from finetree_worker.errors import Cancelled
from finetree_worker.events.envelope import Reporter
from finetree_worker.events.eta import Eta, Rows
from finetree_worker.methods import weights
from finetree_worker.methods.weights import Weights
from finetree_worker.models import checks
from finetree_worker.models.bases import Bases
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer, parameter_count
from finetree_worker.plan import BaseModel, Checkpointing, Plan, Precision
from finetree_worker.ranks.alone import Alone
from finetree_worker.training.evaluation_schedule import Evaluations
from finetree_worker.training.gradients import AUTOCAST, Subject
from finetree_worker.training.loop import Loop, Trained
from finetree_worker.training.preflight import separation
from finetree_worker.versions import library_versions

_BFLOAT16 = (Precision.BF16, Precision.BF16_MIXED)
_PROGRESS_STEPS = 50  # progress events of a phase at most


def train(
    plan: Plan, reporter: Reporter, control: Control, bases: Bases | None = None, ranks: Alone | None = None
) -> Trained:
    """Run the plan to its end, from the newest checkpoint of `plan.checkpoints_dir` if there is one.

    `bases` may hold the base loaded already; without it, it is loaded for this run. `ranks` are those that train
    together, each of which calls this; None: this process alone. Reports from its calling thread.
    Raises the errors of `finetree_worker.errors`, and Cancelled when `control` asks for a stop; a checkpoint is on disk
    then, if the request was for one and training had begun.
    """
    return _Run(plan, reporter, control, bases or Bases(keep=False), ranks or Alone()).run()


class _LimitReached(Cancelled):
    """A limit of the job was reached while the trained model was measured."""


class _Run:
    def __init__(self, plan: Plan, reporter: Reporter, control: Control, bases: Bases, ranks: Alone) -> None:
        self.bases, self.ranks = bases, ranks
        self.plan, self.reporter = plan, Record(reporter, plan.checkpoints_dir, keeps=ranks.speaks)
        self.steering, self.eta = Steering(ranks.control(control)), Eta(plan.evaluation, plan.checkpoints)
        self.device = ranks.device(plan.device)
        self.steering.publishes = any(plan.checkpoints_dir.glob("step-*"))
        self.data_sha256 = ""

    def run(self) -> Trained:
        torch.set_num_threads(self.plan.threads)
        with self._phase(job_pb2.JOB_PHASE_LOAD_MODEL):
            self.steering.stop_here()
            tokenizer, model = self._load()
            base = base_facts(self.plan.base)
            if self.plan.init_from is not None:
                weights.require_base(Weights.from_message(self.plan.init_from), base)
        with self._phase(job_pb2.JOB_PHASE_TOKENIZE) as progress:
            dataset = self.ranks.in_turn(lambda: self._tokenize(tokenizer, progress))
            evaluations = Evaluations(
                self.plan.evaluation, dataset, tokenizer, reporter=self.reporter, eta=self.eta, ranks=self.ranks
            )
        adapted, subject = adapt(self.plan, model, self.device)
        portable = self.plan.method.portable(adapted, base)
        self.ranks.shard(subject.model)
        subject = replace(subject, trainable=trainable(adapted), portable=portable)
        loop = Loop(
            self.plan,
            subject,
            dataset.train,
            reporter=self.reporter,
            steering=self.steering,
            eta=self.eta,
            ranks=self.ranks,
        )
        restored = loop.restore()
        asked = self.plan.evaluation
        # A resumed run's model is trained already: its earlier attempt has reported the base.
        if asked.before_training and dataset.held_out and not restored:
            self._evaluate_before(evaluations, subject.model)
        self._announce(loop, model, restored)
        with self._phase(job_pb2.JOB_PHASE_TRAIN):
            trained = loop.run(lambda step: evaluations.between(subject.model, step, self._look))
        if asked.metrics and dataset.held_out and not trained.limited:
            self._evaluate_after(evaluations, loop)
        self.ranks.unite(adapted, everything=self.plan.method.trains_base)
        if self.ranks.speaks:
            self._save(adapted, tokenizer, base)
        return trained

    @contextmanager
    def _phase(self, phase: job_pb2.JobPhase.ValueType) -> Iterator[Callable[[float], None]]:
        """Report a block as one phase; yields a function that reports the fraction done."""
        reported = 0.0

        def progress(fraction: float) -> None:
            nonlocal reported
            if fraction - reported >= 1 / _PROGRESS_STEPS and fraction < 1:
                reported = fraction
                self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=fraction))

        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=0.0))
        yield progress
        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=1.0))

    def _load(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        tokenizer = load_tokenizer(self.plan.base.folder)
        if self.plan.init_from is not None:
            weights.verify(Weights.from_message(self.plan.init_from))
        model = load(self.plan, self.ranks.loading_device(self.device), self.bases)
        length = self.plan.data.sequence_length
        checks.check_fit(self.plan.base.folder, model.config, tokenizer, sequence_length=length)
        if self.ranks.speaks and not self.bases.reused:
            separation.check(model)
        if device_memory.emulates_bfloat16(self.device) and self.plan.optimization.precision in _BFLOAT16:
            text = "This GPU emulates bfloat16 slowly: PRECISION_FP16_MIXED is faster here."
            self.reporter.emit(event_pb2.Alert(code="BFLOAT16_EMULATED", message=text))
        return tokenizer, model

    def _tokenize(self, tokenizer: PreTrainedTokenizerBase, progress: Callable[[float], None]) -> Dataset:
        look = _both(progress, self.steering.stop_here)
        dataset = load_dataset(self.plan.data, tokenizer, lambda fraction, _: look(fraction))
        with storage_errors():
            self.data_sha256 = hash_of(self.plan.data.train)
        report, held_out = dataset.report, len(dataset.held_out)
        self.reporter.reports.update({int(split): found for split, found in dataset.reports.items()})
        self.reporter.emit(report)
        require_accepted(dataset.reports.values())
        if report.leaked.count:
            leaked = f"{report.leaked.count} of {held_out} held-out rows"
            text = f"{leaked} are training rows too: their scores measure memorization."
            self.reporter.emit(event_pb2.Alert(code="HELD_OUT_ROWS_LEAKED", message=text))
        profile = report.profile
        self.eta.rows(
            Rows(
                train=profile.examples,
                held_out=held_out,
                tokens=profile.total_tokens,
                targets=report.target_tokens,
            )
        )
        return dataset

    def _look(self, _: float) -> None:
        """Poll for requests during an evaluation between two steps; they are acted on after it."""
        self.steering.signal()

    def _announce(self, loop: Loop, model: PreTrainedModel, restored: int) -> None:
        environment = execution_plan() | {
            "precision": self.plan.optimization.precision.value,
            "threads": str(self.plan.threads),
            # Of a CPU the vector instructions, which decide the rounding.
            "device": loop.environment.device,
            "trainable_parameters": str(sum(p.numel() for p in loop.subject.trainable.values())),
            "parameters": str(sum(parameter_count(p) for p in model.parameters())),
            **self.ranks.environment,
        }
        known = event_pb2.ATTEMPT_REASON_FIRST if self.plan.attempt <= 1 else event_pb2.ATTEMPT_REASON_RECOVERED
        started = event_pb2.AttemptStarted(
            restored_step=restored,
            reason=self.plan.attempt_reason or known,
            placements=self.plan.placements,
            environment=environment,
            engine="local",
            base_reused=self.bases.reused,
        )
        where = f"continues from step {restored}" if restored else "starts"
        if self.plan.init_from is not None and not restored:
            where += f" from {self.plan.init_from.source}"
        device = f"CPU with {loop.environment.device}" if self.plan.device == "cpu" else loop.environment.device
        held = "; the base was loaded already" if self.bases.reused else ""
        self.reporter.emit(started, message=f"attempt {self.plan.attempt} {where} on {device}{held}")

    def _evaluate_before(self, evaluations: Evaluations, model: PreTrainedModel) -> None:
        with self._phase(job_pb2.JOB_PHASE_EVALUATE_BEFORE) as progress:
            evaluations.before(model, _both(progress, self.steering.stop_here))

    def _evaluate_after(self, evaluations: Evaluations, loop: Loop) -> None:
        def stop() -> None:
            signal = self.ranks.agree_midway(self.steering.signal())
            if signal is Signal.FINISH:
                raise _LimitReached
            if signal in STOPS:
                loop.save_checkpoint(must=True)
                self.steering.stop_here()

        # Every step is taken: the run is whole without its last measurement.
        with suppress(_LimitReached), self._phase(job_pb2.JOB_PHASE_EVALUATE_AFTER) as progress:
            evaluations.after(loop.subject.model, loop.position.step, _both(progress, stop))

    def _save(self, adapted: Any, tokenizer: PreTrainedTokenizerBase, base: BaseModel) -> None:
        plan, method = self.plan, self.plan.method
        facts = {"format": 1, "base": base.hub_id, "fingerprint": base.fingerprint, "digest": plan.plan_digest}
        with self._phase(job_pb2.JOB_PHASE_SAVE):
            self.steering.signal()
            with atomic_folder(plan.artifact, facts) as draft:
                method.save(adapted, draft, base=base, tokenizer=tokenizer, dtype=weight_dtype(plan, stored=True))
                described = card.of_run(plan, self.reporter, base, execution_plan(), data_sha256=self.data_sha256)
                card.write(draft, described)
            artifact = artifact_pb2.Artifact(
                name=f"{plan.job}/artifacts/{plan.artifact.name}",
                kind=method.artifact,
                peft_type=method.peft_type,
                base=base.message(),
                compat=[method.compatibility(plan.artifact, base.folder)],
            )
            self.reporter.emit(event_pb2.ArtifactReady(artifact=artifact))


def load(plan: Plan, device: torch.device, bases: Bases | None = None) -> PreTrainedModel:
    """Load the plan's base model, or the whole model that it starts from, quantized where the method needs it.

    `bases` may hold it loaded already. Raises ModelError.
    """
    dtype = weight_dtype(plan)
    quantization = plan.method.quantization(dtype)
    attention = plan.optimization.attention.value
    folder = plan.base.folder
    if plan.init_from is not None:
        folder = Weights.from_message(plan.init_from).model_folder(folder)
    return (bases or Bases(keep=False)).load(
        folder,
        dtype,
        device=device,
        quantization=quantization,
        attention=attention,
        unchanged=not plan.method.trains_base,
    )


def adapt(plan: Plan, model: PreTrainedModel, device: torch.device) -> tuple[PeftModel | PreTrainedModel, Subject]:
    """Make the model trainable by the plan's method, from the weights that the plan starts from.

    Returns the object to save, and the subject of training.
    """
    if plan.optimization.gradient_checkpointing is not Checkpointing.OFF:
        # On a CPU the inputs of layers are in the host's memory as they are. On a GPU they are copied in the stream of
        # the computation, so that nothing has to wait for another stream (decision 0095).
        offload = plan.optimization.gradient_checkpointing is Checkpointing.OFFLOADED and device.type == "cuda"
        model.activation_checkpointing_enable({"use_reentrant": False}, offload=offload)
    adapted, run = plan.method.apply(model, plan)
    if plan.init_from is not None:
        weights.initialize(adapted, Weights.from_message(plan.init_from))
    masks = randomness.bind(adapted, plan.optimization.seed)
    return adapted, Subject(run, trainable(adapted), masks, device)


def trainable(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def weight_dtype(plan: Plan, *, stored: bool = False) -> torch.dtype:
    """Return the type of the base's weights in memory, or of a full model's weights on disk."""
    precision = plan.optimization.precision
    master = precision in AUTOCAST and plan.method.trains_base and not stored
    if precision is Precision.FP32 or master:
        return torch.float32
    return torch.float16 if precision is Precision.FP16_MIXED else torch.bfloat16


def execution_plan() -> dict[str, str]:
    """Return library versions and machine type, which with the threads decide the rounding of sums."""
    return library_versions() | {"machine": platform.machine()}


def _both(progress: Callable[[float], None], stop: Callable[[], None]) -> Callable[[float], None]:
    def look(fraction: float) -> None:
        stop()
        progress(fraction)

    return look
