# SPDX-License-Identifier: Apache-2.0
"""Training, preparing and exporting for a task; the training libraries are imported on first use."""

import gc
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.attach.serving import ServingPort
from finetree_worker.control import Control, Steering
from finetree_worker.errors import FinishedEarly
from finetree_worker.events.envelope import Reporter
from finetree_worker.process import log_capture

if TYPE_CHECKING:
    from finetree_worker.models.bases import Bases
    from finetree_worker.plan import BaseModel, DataPlan, PreparePlan
    from finetree_worker.process.surroundings import Surroundings

_PROFILED = ("torch", "transformers", "peft")
_PROGRESS_STEP = 0.005


class TrainingCore:
    """Trains with torch, transformers and peft."""

    def __init__(self) -> None:
        self._bases: Bases | None = None
        self._surroundings: Surroundings | None = None

    def warm_up(self) -> None:
        """Import the training libraries, which takes some seconds the first time.

        Imports create hundreds of thousands of objects and no garbage: without the collector they take a fifth less
        time, and freezing them spares every later collection.
        """
        gc.disable()
        try:
            from transformers.utils import logging

            from finetree_worker.methods.lazy_bitsandbytes import import_peft

            import_peft()

            import finetree_worker.generate.serve
            import finetree_worker.models.gguf
            import finetree_worker.plan_from_task
            import finetree_worker.training.run  # noqa: F401 - imported for what it imports
        finally:
            gc.freeze()
            gc.enable()
        log_capture.adopt_library_loggers()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped

    def profile(self) -> worker_pb2.HostProfile:
        """Measure the matrix rates with as many threads as a job of the service has."""
        from finetree_worker.training import matrix_rate

        threads = os.environ.get("OMP_NUM_THREADS", "")
        rate = matrix_rate.measure(int(threads) if threads.isdecimal() else len(os.sched_getaffinity(0)))
        return worker_pb2.HostProfile(
            matrix_rates=hardware_pb2.MatrixRates(
                bf16_flops_per_second=rate.bf16.forward,
                fp32_flops_per_second=rate.fp32.forward,
                bf16_backward_flops_per_second=rate.bf16.backward,
                fp32_backward_flops_per_second=rate.fp32.backward,
            ),
            threads=rate.threads,
            cpu_name=cpu_name(),
            versions={name: metadata.version(name) for name in _PROFILED},
        )

    def train(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> event_pb2.RunSummary:
        """Train to the end; return whether training stopped early and which step's weights are published.

        On several devices, starts the other ranks. Raises FinishedEarly where a limit of the job ended it before.
        """
        from finetree_worker.models.bases import Bases
        from finetree_worker.plan_from_task import train_plan
        from finetree_worker.process.surroundings import Surroundings
        from finetree_worker.ranks.speaker import ranks_of
        from finetree_worker.training.run import train

        self._bases = self._bases or Bases(keep=task.may_rest)
        if task.may_rest and self._surroundings is None:
            self._surroundings = Surroundings.capture()
        plan = train_plan(task)
        with ranks_of(task, plan, reporter) as ranks:
            trained = train(plan, reporter, control, self._bases, ranks)
        summary = event_pb2.RunSummary(stopped_early=trained.stopped_early, best_step=trained.best_step)
        if trained.limited:
            raise FinishedEarly(summary)
        return summary

    def rest(self, task: worker_pb2.Task) -> worker_pb2.Resting | None:
        """Undo what a training has left in this process, but its base where that is proven to be as it was loaded."""
        import torch

        from finetree_worker.device_memory import memory_bytes
        from finetree_worker.plan_from_task import train_plan
        from finetree_worker.process.surroundings import free_memory, reset_peak

        if self._bases is None or self._surroundings is None:
            return None
        plan = train_plan(task)
        if plan.ranks > 1:
            return None  # it has a part of the base, or a process group behind it
        device = torch.device(plan.device)
        self._bases.settle()
        restored = self._surroundings.restore()
        free_memory(device)
        if not restored or not reset_peak(device):
            return None
        return worker_pb2.Resting(memory_bytes=memory_bytes(device))

    def evaluate(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Measure trained weights beside their base, and report."""
        from finetree_worker.training.evaluation.plan import evaluation_plan
        from finetree_worker.training.evaluation.run import evaluate

        evaluate(evaluation_plan(task), reporter, control)

    def prepare(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Fetch or convert the model unless it is there, then report on the rows, as far as the task names them."""
        from finetree_worker.plan_from_task import prepare_plan

        plan = prepare_plan(task)
        base = plan.base
        if plan.model_origin and base is not None:
            base = prepare_base(plan.model_origin, base.folder, task.hub, reporter=reporter, control=control)
        if plan.data is None:
            return
        if base is None:
            report_rows(plan.data, reporter, Steering(control))
        else:
            report_dataset(plan, base, reporter=reporter, steering=Steering(control))

    def export(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Merge the weights or write them for another program; publish what answers as the trained model does."""
        from finetree_worker.export.plan import export_plan
        from finetree_worker.export.run import export

        export(export_plan(task), reporter, control)

    def serve(self, task: worker_pb2.Task, reporter: Reporter, *, control: Control, port: ServingPort) -> None:
        """Keep a model and its targets loaded, and answer what comes through the port."""
        from finetree_worker.generate.plan import ServePlan
        from finetree_worker.generate.serve import serve

        serve(ServePlan.from_task(task), reporter=reporter, control=control, port=port)


def prepare_base(
    origin: str, folder: Path, hub: worker_pb2.HubAccess, *, reporter: Reporter, control: Control
) -> "BaseModel":
    """Convert a model from a wheel or fetch one from a hub. Raises ModelError, HubError, StorageError, Cancelled."""
    from finetree_worker.models import hub as model_hub
    from finetree_worker.models import hub_models
    from finetree_worker.models.gguf import prepare_model

    if not origin.startswith(hub_models.ORIGIN):
        return prepare_model(origin, folder, reporter=reporter, control=control)
    access = model_hub.Access(
        hub.endpoint, hub.token, offline=hub.offline, reserve_bytes=hub.reserve_bytes, proxy=hub.proxy
    )
    return hub_models.prepare_hub_model(origin, folder, access, reporter=reporter, control=control)


def report_rows(plan: "DataPlan", reporter: Reporter, steering: Steering) -> None:
    """Read and check the rows of both splits and report on each, without a tokenizer. Raises DataError, Cancelled."""
    from finetree_data.report.build import Use

    from finetree_worker.data.report import rows_report
    from finetree_worker.plan import UNLIMITED
    from finetree_worker.spec_values import LOSS_ON
    from finetree_worker.tokenize.rows import RowSource

    length = plan.sequence_length if plan.sequence_length < UNLIMITED else 0
    use = Use(length, next(value for value, loss_on in LOSS_ON.items() if value and loss_on is plan.loss_on))
    progress = RowsProgress(reporter, steering)
    train = RowSource(plan.train, plan.reading)
    found = rows_report(train, training_data_pb2.SPLIT_TRAIN, train=None, use=use, on_progress=progress)
    reporter.emit(found.report)
    if plan.held_out is not None:
        held = RowSource(plan.held_out, plan.held_out_reading, "evaluation_dataset")
        kind, progress = training_data_pb2.SPLIT_EVALUATION, RowsProgress(reporter, steering)
        reporter.emit(rows_report(held, kind, train=found, use=use, on_progress=progress).report)
    progress.finish()


class RowsProgress:
    """Reports how far the reading of rows is, in steps of half a percent; raises Cancelled where told to stop."""

    def __init__(self, reporter: Reporter, steering: Steering) -> None:
        self._reporter, self._steering = reporter, steering
        self._fraction, self._rows = 0.0, 0
        steering.stop_here()
        self._emit()

    def __call__(self, fraction: float, rows: int) -> None:
        """Report the share of the reading, 0 to 1, and the rows that were read. Raises Cancelled."""
        self._steering.stop_here()
        if fraction - self._fraction >= _PROGRESS_STEP and fraction < 1:
            self._fraction, self._rows = fraction, rows
            self._emit()
        self._rows = rows

    def finish(self) -> None:
        """Report the end."""
        self._fraction = 1.0
        self._emit()

    def _emit(self) -> None:
        progress = event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TOKENIZE, fraction=self._fraction, done=self._rows)
        progress.unit = event_pb2.PROGRESS_UNIT_ROWS if self._rows else event_pb2.PROGRESS_UNIT_UNSPECIFIED
        self._reporter.emit(progress)


def report_dataset(plan: "PreparePlan", base: "BaseModel", *, reporter: Reporter, steering: Steering) -> None:
    """Tokenize both splits with the model's tokenizer, report on each, and keep rows for a preview.

    The preview is an artifact of the kind REPORT in `plan.artifact`. Raises DataError, ModelError, StorageError,
    Cancelled.
    """
    from finetree_worker.atomic_files import atomic_folder
    from finetree_worker.data import preview
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer

    if plan.data is None:
        return

    progress = RowsProgress(reporter, steering)
    tokenizer = load_tokenizer(base.folder)
    dataset = load_dataset(plan.data, tokenizer, progress)
    for kind, report in dataset.reports.items():
        preview.add_example(report, dataset.splits[kind], tokenizer)
        reporter.emit(report)
    steering.stop_here()
    with atomic_folder(plan.artifact, {"format": 1}) as draft:
        preview.write(draft, dataset.splits.values(), tokenizer)
    artifact = artifact_pb2.Artifact(
        name=f"{plan.job}/artifacts/{plan.artifact.name}", kind=artifact_pb2.ARTIFACT_KIND_REPORT, base=base.message()
    )
    reporter.emit(event_pb2.ArtifactReady(artifact=artifact))
    progress.finish()


def cpu_name() -> str:
    """Return the processor's name; empty where it cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "")
