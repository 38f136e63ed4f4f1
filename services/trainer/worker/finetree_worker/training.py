# SPDX-License-Identifier: Apache-2.0
"""The real core behind the worker's shell: imports the training libraries, and only when it is called."""

import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import job_pb2, worker_pb2

from finetree_worker import events, library_log, planning
from finetree_worker.plan import TrainPlan
from finetree_worker.runner import TaskReporter
from finetree_worker.translate import SplitReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetree_worker.data import Dataset

_PROFILED = ("torch", "transformers", "peft")


class TrainingCore:
    """Trains with torch, transformers and peft."""

    def warm_up(self) -> None:
        """Import the training libraries: 9 to 12 s, a dictionary look-up the second time."""
        import finetree_worker.prepare
        import finetree_worker.train  # noqa: F401 - imported for what it imports

        library_log.adopt_library_loggers()

    def profile(self) -> worker_pb2.HostProfile:
        """The matrix rates of all cores that this process may use."""
        from finetree_worker import gemm

        rate = gemm.measure(len(os.sched_getaffinity(0)))
        return worker_pb2.HostProfile(
            bf16_flops_per_second=rate.bf16_flops,
            fp32_flops_per_second=rate.fp32_flops,
            threads=rate.threads,
            cpu_name=cpu_name(),
            versions={name: metadata.version(name) for name in _PROFILED},
        )

    def train(self, plan: TrainPlan, reporter: events.Reporter, control: events.Control) -> None:
        """Run the plan to its end."""
        from finetree_worker.train import train

        train(plan, reporter, control)

    def prepare(self, task: worker_pb2.Task, reporter: TaskReporter, control: events.Control) -> None:
        """Convert the model unless it is there already, then report on the dataset, if the task names one."""
        from finetree_worker.prepare import prepare_model

        if task.model_origin:
            prepare_model(task.model_origin, Path(task.model_dir), reporter, control)
        if task.dataset_file:
            report_dataset(planning.report_plan(task), reporter, control)

    def compatibility(self, folder: Path, base: Path) -> list[job_pb2.Compatibility]:
        """Who loads the artifact in `folder`."""
        from finetree_worker import loading

        return loading.check(folder, base)


def report_dataset(plan: TrainPlan, reporter: TaskReporter, control: events.Control) -> None:
    """Tokenise both splits with the model's tokenizer and report on each. Raises DataError, ModelError, Cancelled."""
    from finetree_worker import data, models
    from finetree_worker.steering import Steering

    steering = Steering(control)

    def tell(fraction: float) -> None:
        steering.stop_here()
        reporter.emit(events.PhaseProgress(events.Phase.TOKENIZE, fraction))

    tell(0.0)
    tokenizer = models.load_tokenizer(plan.base.folder)
    dataset = data.load(plan, tokenizer, tell)
    reporter.emit(SplitReport(dataset.report, "train", rendered_example(dataset, tokenizer)))
    if dataset.held_out:
        reporter.emit(SplitReport(held_out_report(dataset), "evaluation"))
    reporter.emit(events.PhaseProgress(events.Phase.TOKENIZE, 1.0))


def rendered_example(dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> str:
    """The first training row as the model sees it, decoded from its tokens."""
    text = tokenizer.decode(dataset.train[0].tokens.tolist())
    return text if isinstance(text, str) else ""


def held_out_report(dataset: "Dataset") -> events.DatasetReport:
    """The same figures for the rows that are not trained on."""
    from finetree_worker import data

    lengths = [len(example) for example in dataset.held_out]
    return replace(
        dataset.report,
        rows=len(lengths),
        train_rows=len(lengths),
        eval_rows=len(lengths),
        duplicate_rows=0,
        truncated_rows=0,
        dropped_rows=0,
        dropped_row_numbers=(),
        total_tokens=sum(lengths),
        target_tokens=sum(example.targets for example in dataset.held_out),
        longest_row_tokens=max(lengths),
        histogram=data.histogram(lengths),
    )


def cpu_name() -> str:
    """What the processor calls itself; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "")
