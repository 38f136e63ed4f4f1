# SPDX-License-Identifier: Apache-2.0
"""How much of a training a lost worker may cost: what decides how often checkpoints are saved."""

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.money import to_decimal
from finetree_runtime.runspec.defaults import CHECKPOINT_EVERY_STEPS

from finetree_trainer.estimator import hourly_price

SHARE = 20
"""Part of the estimated duration that may be lost where nobody says: a twentieth."""
LEAST_SECONDS, MOST_SECONDS = 60.0, 1800.0
"""Bounds of that part: saving more often than once a minute costs more than it saves, half an hour is felt by people.
Conventions, no measurements."""
STEPS = "checkpoints.every_steps"


def max_lost_seconds(record: job_pb2.Job) -> float | None:
    """Return the seconds of optimizer steps that a training may lose; None for any, or for what does not train."""
    if not record.HasField("train"):
        return None
    limits, given = record.limits, list[float]()
    if limits.HasField("max_lost_time"):
        given.append(limits.max_lost_time.ToNanoseconds() / 1e9)
    price = hourly_price(record.estimate)
    if limits.HasField("max_lost_cost") and price is not None and to_decimal(price) > 0:
        given.append(float(to_decimal(limits.max_lost_cost) / to_decimal(price)) * 3600)
    if given:
        return max(1e-3, min(given))
    if not record.estimate.HasField("total_seconds") or not counts_no_steps(record.train):
        return None
    return min(MOST_SECONDS, max(LEAST_SECONDS, record.estimate.total_seconds.expected / SHARE))


def counts_no_steps(task: job_pb2.TrainTask) -> bool:
    """Return whether nobody has said after how many steps checkpoints are saved: the spec has the default.

    A source alone does not say so: clients may send those of a recommendation with a spec that they have changed.
    """
    if task.spec.checkpoints.every_steps != CHECKPOINT_EVERY_STEPS:
        return False
    return any(it.field_path == STEPS and it.rule_id.startswith("default.") for it in task.setting_sources)
