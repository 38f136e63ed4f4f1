# SPDX-License-Identifier: Apache-2.0
"""The job file of an OpenAI job: a recommended recipe with the job's own settings over it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetree_cli.jobfile.yaml_writer import to_yaml
from finetree_cli.migrate.export import OpenAIJob

if TYPE_CHECKING:
    from finetree_api.types.v1 import check_pb2, run_spec_pb2

MAX_SEED = 2**32 - 1
MAX_SAMPLES = 1000
"""Largest number of answers that a job reports (Evaluation.samples)."""
MOST_TOKENS = 512
"""Longest answer that is generated for the comparison, in tokens."""
REQUEST = "of the OpenAI job"
"""Reason of a setting that the job itself had."""
_LABEL_KEY = re.compile(r"(?=.{1,63}\Z)[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_MAX_LABEL_VALUE = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out rows of a job file, by their path from it."""

    path: str
    recorded: int = 0
    """Rows that are recorded questions, whose answers are asked again; 0 where they are a validation file."""
    longest_answer: int = 0
    """Length of the longest recorded answer in characters."""


def settings_of(job: OpenAIJob, spec: "run_spec_pb2.RunSpec", *, multiplier: bool) -> list[str]:
    """Put a job's settings over a recipe; returns notes on what is not taken over, one line each.

    Args:
        job: the job.
        spec: the recipe, which is changed.
        multiplier: whether the learning rate of the recipe is multiplied.
    """
    training, notes = spec.training, []
    if job.n_epochs is not None:
        training.epochs = job.n_epochs
    if job.batch_size is not None:
        training.effective_batch_size = job.batch_size
        if training.HasField("micro_batch_size"):
            training.micro_batch_size = min(training.micro_batch_size, job.batch_size)
    if job.seed is not None and 0 <= job.seed <= MAX_SEED:
        training.seed = job.seed
    elif job.seed is not None:
        notes.append(f"seed {job.seed} is not taken over: seeds go from 0 to {MAX_SEED}")
    if job.learning_rate_multiplier is not None and multiplier and training.HasField("learning_rate"):
        training.learning_rate *= job.learning_rate_multiplier
    elif job.learning_rate_multiplier is not None:
        notes.append(
            f"learning_rate_multiplier {job.learning_rate_multiplier:g} is not taken over: it multiplies a rate that "
            "OpenAI does not publish; --apply-multiplier multiplies the recipe's"
        )
    return notes


def add_evaluation(spec: "run_spec_pb2.RunSpec", held_out: Evaluation, samples: int) -> None:
    """Let a run measure held-out rows before and after, and answer recorded questions again."""
    from finetree_api.types.v1 import training_pb2

    spec.evaluation.dataset.path = held_out.path
    spec.evaluation.before_training = True
    if held_out.recorded:
        spec.evaluation.metrics[:] = [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]
        spec.evaluation.samples = min(samples, held_out.recorded, MAX_SAMPLES)
        # A token has at least one character, and the end of an answer is one more token.
        spec.evaluation.max_new_tokens = min(held_out.longest_answer + 1, MOST_TOKENS)


def sources_of(
    recommended: "run_spec_pb2.RunSpec", spec: "run_spec_pb2.RunSpec", sources: "Iterable[check_pb2.SettingSource]"
) -> "list[check_pb2.SettingSource]":
    """Say of each training setting where it comes from: the recommender, or the OpenAI job."""
    from finetree.spec import kept_sources
    from finetree_api.types.v1 import check_pb2

    names = ("epochs", "effective_batch_size", "micro_batch_size", "seed", "learning_rate")
    changed = {
        f"training.{name}" for name in names if getattr(spec.training, name) != getattr(recommended.training, name)
    }
    kept = kept_sources(sources, recommended, spec)
    return [*kept, *(check_pb2.SettingSource(field_path=path, reason=REQUEST) for path in sorted(changed))]


def write_job(
    job: OpenAIJob, spec: "run_spec_pb2.RunSpec", sources: "Iterable[check_pb2.SettingSource]", header: Iterable[str]
) -> str:
    """Write a job file: name and labels of the OpenAI job, and the run with the reason of each value."""
    lines = [f"# {' '.join(line.split())}" for line in header]
    lines.append(f"display_name: {json.dumps(job.suffix or job.id, ensure_ascii=False)}")
    lines += _mapping("labels", {key: value for key, value in job.metadata.items() if _is_label(key, value)})
    lines += _mapping("annotations", {"openai.job": job.id, "openai.model": job.model})
    lines += ["train:", "  spec:", *(f"    {line}" for line in to_yaml(spec, sources).splitlines())]
    return "\n".join(lines) + "\n"


def unlabelled(job: OpenAIJob) -> list[str]:
    """Keys of the metadata that cannot be labels."""
    return [key for key, value in job.metadata.items() if not _is_label(key, value)]


def _is_label(key: str, value: str) -> bool:
    return _LABEL_KEY.fullmatch(key) is not None and len(value) <= _MAX_LABEL_VALUE


def _mapping(name: str, pairs: Mapping[str, str]) -> list[str]:
    given = {key: value for key, value in pairs.items() if value}
    if not given:
        return []
    return [
        f"{name}:",
        *(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in given.items()),
    ]
