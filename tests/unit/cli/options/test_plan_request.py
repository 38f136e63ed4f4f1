# SPDX-License-Identifier: Apache-2.0
"""The request that a job file and the options of `finetree check` make."""

from typing import Any

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import parse_job
from finetree_cli.options.plan_request import PlanFlags, plan_request
from finetree_cli.options.program import ProgramFlags
from finetree_cli.options.spec import OwnershipFlags
from finetree_cli.output import Output

JOB = "model: {name: llama-3.2-1b}\nlora: {}\nhardware: {accelerator: l4}\n"


def request(job: str, **flags: Any) -> estimate_pb2.EstimateRunRequest:
    out = Output(quiet=True)
    file = parse_job(job, "job.yaml")
    return plan_request(file, out, plan=PlanFlags(**flags), owner=OwnershipFlags(), program=ProgramFlags())


def test_an_option_about_rows_is_never_without_effect():
    """A gate that ignores the length of the rows answers for other rows than were meant."""
    rows = request(JOB + "dataset: {profile: {examples: 50}}\n", tokens_per_example=30).dataset_profile
    assert (rows.examples, rows.total_tokens) == (50, 1500)
    assert not request(JOB + "dataset: {profile: {examples: 50}}\n").HasField("dataset_profile")
    with pytest.raises(BadInput, match="--tokens-per-example needs --examples"):
        request(JOB, tokens_per_example=30)
