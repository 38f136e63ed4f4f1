# SPDX-License-Identifier: Apache-2.0
"""An export task: ask the trained model, merge, write, read the file back and ask it the same.

Everything is computed in float32 on the CPU, so that what differs is what the file rounds, and nothing else. One model
is in memory at a time. Where the file, read back by its own keys alone, answers otherwise than the merged model with
its weights rounded in memory, the file is at fault, and is not published.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, export_pb2, job_pb2
from finetree_api.types.v1 import check_pb2
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker import card
from finetree_worker.atomic_files import atomic_folder, hashes
from finetree_worker.control import Control, Steering
from finetree_worker.device_memory import GIB, free_memory_bytes
from finetree_worker.errors import MemoryExhaustedError, TaskError
from finetree_worker.events.envelope import Reporter
from finetree_worker.export.card import of_export
from finetree_worker.export.files import CPU, Adapted, Form, Progress, form_of, plain
from finetree_worker.export.gguf.lora_file import plain_layers
from finetree_worker.export.gguf.weights import ROUNDING, WeightType
from finetree_worker.export.merge import merge, require_mergeable
from finetree_worker.export.plan import WEIGHT_TYPES, ExportPlan
from finetree_worker.export.prompts import prompts
from finetree_worker.export.replay import Place, Replay, ask, compare, exact_match, largest_logit, logits, places
from finetree_worker.methods import method_of, weights
from finetree_worker.models import checks
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import BaseModel
from finetree_worker.tokenize.rows import Row

SUMS = 1e-4
"""Difference of logits by the order of sums, as a share of the largest logit."""
ROUNDED_LOGITS = 4.0
"""Difference of logits that rounded weights may make, in units of a weight's rounding times the largest logit times the
square root of the number of matrices, whose errors add up like a random walk. Random models of 2 to 7 layers reach 1.1
with float16 and 2.6 with Q8_0; SmolLM2-135M with a LoRA 0.2 and 0.8."""
_MATRICES = 7  # of a layer
_STORED = {"F32": WeightType.F32, "F16": WeightType.F16, "BF16": WeightType.BF16}
_FINER = {WeightType.BF16: ("f16", "f32"), WeightType.F16: ("f32",), WeightType.Q8_0: ("f16", "f32")}
"""Number formats that round less than one that rounds."""
_PROGRESS_STEP = 0.05
BYTES_PER_WEIGHT = 6.5
"""Memory of an export: a model in float32, the copy in 16 bits that a folder is written from, and what it is asked."""


class ExportDiffersError(TaskError):
    """The exported file does not answer as the trained model does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of an export and the tokens at which models are compared."""

    rows: list[Row]
    tokenizer: PreTrainedTokenizerBase
    places: list[Place]


def export(plan: ExportPlan, reporter: Reporter, control: Control) -> None:
    """Run an export to its end; its report and its artifact are events.

    Raises the errors of `finetree_worker.errors`, and Cancelled when `control` asks for a stop; nothing is left then.
    """
    _Export(plan, reporter, control).run()


class _Export:
    def __init__(self, plan: ExportPlan, reporter: Reporter, control: Control) -> None:
        self.plan, self.reporter, self.steering = plan, reporter, Steering(control)
        self.folder = plan.weights.model_folder(plan.base.folder)

    def run(self) -> None:
        torch.set_num_threads(self.plan.threads)
        with self._phase(job_pb2.JOB_PHASE_LOAD_MODEL):
            tokenizer = load_tokenizer(self.folder)
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
            weight_type = self.plan.weight_type or stored_type(self.folder)
            form = form_of(self.plan.format, weight_type, config=config, tokenizer=tokenizer)
            rows, base = prompts(self.plan), base_facts(self.plan.base)
            require_memory(self.folder)
        with self._phase(job_pb2.JOB_PHASE_MERGE) as progress:
            adapted, asked, replays = self._trained(form, rows, progress)
            whole = merge(adapted, _part(progress, 0.9, 0.95)) if form.merges else adapted
            merging = (
                self._merging(whole, asked, replays) if form.merges and not self.plan.weights.whole_model else None
            )
        facts = {"format": 1, "base": base.hub_id, "fingerprint": base.fingerprint}
        with atomic_folder(self.plan.artifact, facts) as draft:
            with self._phase(job_pb2.JOB_PHASE_EXPORT) as progress:
                form.write(draft, whole, base, progress)
            with self._phase(job_pb2.JOB_PHASE_VERIFY) as progress:
                rounded = form.rounded(whole)
                kind = export_pb2.COMPARED_MODEL_ROUNDED
                replays[kind] = self._ask(rounded, tokenizer, asked, _part(progress, 0.0, 0.5))
                # One model at a time: the file's own is the next.
                del adapted, whole, rounded
                model, own = form.read(draft, self._load)
                found = self._ask(model, own, asked, _part(progress, 0.5, 1.0))
                del model
                report = self._report(form, base)
                if merging is not None:
                    report.merge_difference = merging
                allowed = _allowed(form, found)
                _compare(report, found, replays, asked=asked, allowed=allowed)
                written = of_export(base, self.plan.weights, report, weight_type=form.weights.name.lower())
                card.write(draft, written)
                report.files.extend(_files(draft))
                self.reporter.emit(report)
                require_equal(report, explained=allowed[export_pb2.COMPARED_MODEL_ROUNDED])
        name = f"{self.plan.job}/artifacts/{self.plan.artifact.name}"
        artifact = artifact_pb2.Artifact(name=name, kind=form.kind, format=self.plan.format, base=base.message())
        self.reporter.emit(event_pb2.ArtifactReady(artifact=artifact))

    def _trained(
        self, form: Form, rows: list[Row], progress: Progress
    ) -> tuple[Adapted, Asked, dict[export_pb2.ComparedModel.ValueType, Replay]]:
        """Ask the trained model, on the quantized base too where it was trained on one; return it on the plain base."""
        quantized = self._quantized()
        # The method is looked at before hours of work, and its model is the first that is asked.
        adapted = weights.load(self._load(), self.plan.weights)
        if form.merges:
            require_mergeable(adapted)
        else:
            plain_layers(adapted)
        model, tokenizer = plain(adapted), form.tokenizer
        first = ask(
            model,
            tokenizer,
            rows,
            max_new_tokens=self.plan.max_new_tokens,
            on_fraction=_part(progress, 0.0, 0.4 if quantized else 0.8),
        )
        vocabulary = int(model.config.get_text_config().vocab_size)
        asked = Asked(rows, tokenizer, places(first, tokenizer, vocabulary))
        trained = Replay(first.prompts, first.answers, logits(model, asked.places, lambda _: self.steering.stop_here()))
        replays = {export_pb2.COMPARED_MODEL_TRAINED: trained}
        if quantized is not None:
            kind = export_pb2.COMPARED_MODEL_QUANTIZED_BASE
            replays[kind] = self._ask(quantized(), tokenizer, asked, _part(progress, 0.4, 0.9))
        return adapted, asked, replays

    def _merging(
        self, merged: Adapted, asked: Asked, replays: dict[export_pb2.ComparedModel.ValueType, Replay]
    ) -> float:
        """Return the largest difference of logits that merging makes before anything is rounded.

        Rounding to 16 bits and fewer explains so much that a wrong scale could hide in it.
        """
        trained = replays[export_pb2.COMPARED_MODEL_TRAINED]
        found = Replay(
            trained.prompts, trained.answers, logits(plain(merged), asked.places, lambda _: self.steering.stop_here())
        )
        return compare(export_pb2.COMPARED_MODEL_TRAINED, found, trained, asked.places).largest_difference

    def _load(self) -> PreTrainedModel:
        return load_model(self.folder, torch.float32, device=CPU)

    def _quantized(self) -> Callable[[], PreTrainedModel] | None:
        """Return how the model is loaded on the quantized base that it was trained on; None for other methods."""
        spec = self.plan.weights.spec
        quantization = method_of(spec).quantization(torch.float32) if spec is not None else None
        if quantization is None:
            return None

        def load() -> PreTrainedModel:
            base = load_model(self.folder, torch.float32, device=CPU, quantization=quantization)
            return plain(weights.load(base, self.plan.weights))

        return load

    def _ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Asked, progress: Progress
    ) -> Replay:
        given = ask(
            model, tokenizer, asked.rows, max_new_tokens=self.plan.max_new_tokens, on_fraction=_part(progress, 0.0, 0.8)
        )
        return Replay(given.prompts, given.answers, logits(model, asked.places, progress))

    def _report(self, form: Form, base: BaseModel) -> export_pb2.ExportReport:
        report = export_pb2.ExportReport(
            format=self.plan.format,
            weight_type=next(kind for kind, value in WEIGHT_TYPES.items() if value is form.weights),
            merged=form.merges and not self.plan.weights.whole_model,
            base=base.message(),
            prompt_source=self.plan.prompt_source,
            load_commands=form.commands(base),
            remarks=form.remarks,
        )
        if self._quantized() is not None:
            text = "The adapter was trained on a quantized base; it belongs to the unquantized one as well."
            report.remarks.append(check_pb2.Remark(code="TRAINED_ON_QUANTIZED_BASE", message=text))
        return report

    @contextmanager
    def _phase(self, phase: job_pb2.JobPhase.ValueType) -> Iterator[Progress]:
        """Report a block as one phase; yields a function that reports the fraction done, and stops where asked to."""
        reported = 0.0

        def progress(fraction: float) -> None:
            nonlocal reported
            self.steering.stop_here()
            if fraction - reported >= _PROGRESS_STEP and fraction < 1:
                reported = fraction
                self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=fraction))

        self.steering.stop_here()
        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=0.0))
        yield progress
        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=1.0))


def _files(folder: Path) -> list[artifact_pb2.ArtifactFile]:
    """Return the files of a folder with their hashes."""
    return [
        artifact_pb2.ArtifactFile(path=path, size_bytes=(folder / path).stat().st_size, sha256=sha256)
        for path, sha256 in hashes(folder).items()
    ]


def _part(progress: Progress, begin: float, end: float) -> Progress:
    return lambda fraction: progress(begin + (end - begin) * fraction)


def stored_type(folder: Path) -> WeightType:
    """Return the number format of a model's files; float32 for files of several."""
    found = checks.check_weights(folder)
    return _STORED.get(next(iter(found)), WeightType.F32) if len(found) == 1 else WeightType.F32


def parameters(folder: Path) -> int:
    """Return the number of weights of a model, from the headers of its files."""
    total = 0
    for file in checks.weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            total += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    return total


def require_memory(folder: Path) -> None:
    """Raise MemoryExhaustedError OUT_OF_MEMORY_LOADING unless the memory of an export is free."""
    needed, free = int(BYTES_PER_WEIGHT * parameters(folder)), free_memory_bytes(CPU)
    if free and needed > free:
        raise MemoryExhaustedError(
            "OUT_OF_MEMORY_LOADING",
            f"An export computes in float32 on the CPU, for which this model takes {needed / GIB:.1f} GiB; "
            f"{free / GIB:.1f} GiB are free.",
            field="export",
            remedy="Wait until other jobs have ended, or export on a machine with more memory.",
        )


def _allowed(form: Form, found: Replay) -> dict[export_pb2.ComparedModel.ValueType, float]:
    """Return the differences of logits that are explained: by the order of sums, and by the rounding of weights."""
    largest = largest_logit(found)
    matrices = _MATRICES * int(form.config.get_text_config().num_hidden_layers) + 1
    rounding = ROUNDED_LOGITS * ROUNDING[form.weights] * math.sqrt(matrices)
    return {
        export_pb2.COMPARED_MODEL_ROUNDED: SUMS * largest,
        export_pb2.COMPARED_MODEL_TRAINED: (SUMS + rounding) * largest,
    }


def _compare(
    report: export_pb2.ExportReport,
    found: Replay,
    replays: dict[export_pb2.ComparedModel.ValueType, Replay],
    *,
    asked: Asked,
    allowed: dict[export_pb2.ComparedModel.ValueType, float],
) -> None:
    report.prompts = len(asked.rows)
    report.compared_tokens = sum(place.places for place in asked.places)
    for kind, other in sorted(replays.items()):
        comparison = compare(kind, found, other, asked.places)
        if kind in allowed:
            comparison.allowed_difference = allowed[kind]
        report.comparisons.append(comparison)
        if kind == export_pb2.COMPARED_MODEL_TRAINED:
            _remark_rounding(report, others=report.prompts - comparison.equal_answers)
    before = exact_match(replays[export_pb2.COMPARED_MODEL_TRAINED], asked.rows)
    after = exact_match(found, asked.rows)
    if before is not None and after is not None:
        report.exact_match_before, report.exact_match_after = before, after


def _remark_rounding(report: export_pb2.ExportReport, *, others: int) -> None:
    """Say that the weights' rounding has changed answers, where a format that rounds less is there to be chosen."""
    weights = WEIGHT_TYPES[report.weight_type]
    finer = " or ".join(_FINER.get(weights, ()))
    if others and finer:
        text = (
            f"Rounded to {weights}, it answers {others} of {report.prompts} prompts otherwise than the trained model."
        )
        text += f" Weights in {finer} keep more of what was learned (weight_type, --dtype)."
        report.remarks.append(check_pb2.Remark(code="ROUNDING_CHANGES_ANSWERS", message=text))


def require_equal(report: export_pb2.ExportReport, *, explained: float) -> None:
    """Raise ExportDiffersError EXPORT_DIFFERS unless what differs from the trained model is the file's rounding.

    `explained` is the difference of logits that the order of sums makes.
    """
    # Here and below written so that a difference that is no number is too large.
    if report.HasField("merge_difference") and not report.merge_difference <= explained:
        text = "The merged model does not compute what the trained model does: logits differ by up to "
        text += f"{report.merge_difference:.3g} before any rounding ({explained:.3g} are explained)."
        remedy = "Serve the adapter beside its base; this is a fault of the merge."
        raise ExportDiffersError("EXPORT_DIFFERS", text, field="export", remedy=remedy)
    for comparison in report.comparisons:
        allowed = comparison.allowed_difference if comparison.HasField("allowed_difference") else math.inf
        exact = comparison.model == export_pb2.COMPARED_MODEL_ROUNDED
        answers = report.prompts - comparison.equal_answers if exact else 0
        if not comparison.largest_difference <= allowed or answers:
            other = "the merged model rounded in memory" if exact else "the trained model"
            text = f"The exported file does not answer as {other} does: logits differ by up to "
            text += f"{comparison.largest_difference:.3g} ({allowed:.3g} are explained)"
            text += f", and {answers} of {report.prompts} answers are others." if answers else "."
            remedy = "Export in another number format or format; the report tells what differs."
            raise ExportDiffersError("EXPORT_DIFFERS", text, field="export", remedy=remedy)
