# SPDX-License-Identifier: Apache-2.0
"""What stands beside the computed numbers: measured runs, confidence, the playbook's figures."""

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import evidence_pb2

FULL = "ESTIMATE_VIEW_FULL"
LORA_OF_PEFT = {
    "lora": {"rank": 32, "targets": "TARGET_PRESET_QUERY_VALUE"},
    "hardware": {"accelerator": "l40s"},
    "training": {
        "micro_batch_size": 4,
        "effective_batch_size": 4,
        "sequence_length": 768,
        "packing": "PACKING_OFF",
        "loss_tokens": "LOSS_TOKENS_ALL",
    },
    "gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF",
    "loss_kernel": "LOSS_KERNEL_FULL_LOGITS",
}
"""PEFT's own comparison: Llama-3.2-3B, 20,000 rows of 210 tokens."""


def trained_by(program: str) -> dict[str, object]:
    return {"program": {"program": f"TRAINING_PROGRAM_{program}"}}


@pytest.mark.service_alone("figures")
async def test_a_full_answer_names_five_measured_runs_nearest_first(stub, request_of):
    rows = (await stub.EstimateRun(request_of(view=FULL))).estimate.nearest_runs
    far = [row.distance for row in rows]

    assert len(rows) == 5
    assert far == sorted(far)
    for row in rows:
        assert row.description
        assert row.peak_bytes or row.tokens_per_second
        assert row.provenance.kind == evidence_pb2.PROVENANCE_KIND_PUBLISHED
        assert row.provenance.source.startswith("github:")


@pytest.mark.parametrize("view", ["ESTIMATE_VIEW_UNSPECIFIED", "ESTIMATE_VIEW_BASIC"])
async def test_a_basic_answer_names_none_but_states_its_confidence(stub, request_of, view):
    estimate = (await stub.EstimateRun(request_of(view=view))).estimate

    assert not estimate.nearest_runs
    assert estimate.confidence.memory
    assert estimate.confidence.time
    assert estimate.confidence.reasons


@pytest.mark.service_alone("figures")
async def test_a_run_that_was_published_is_at_no_distance(stub, request_of):
    profile = {"examples": 20_000, "total_tokens": 4_198_051}
    request = request_of(LORA_OF_PEFT | trained_by("TRANSFORMERS"), view=FULL, dataset_profile=profile)
    estimate = (await stub.EstimateRun(request)).estimate

    assert estimate.nearest_runs[0].distance == 0
    assert estimate.nearest_runs[0].description.startswith("meta-llama/Llama-3.2-3B, lora")
    assert estimate.confidence.memory_distance == estimate.confidence.time_distance == 0
    assert estimate.confidence.memory == estimate.confidence.time == evidence_pb2.CONFIDENCE_LEVEL_HIGH


@pytest.mark.service_alone("figures")
async def test_our_own_program_is_farther_than_the_one_that_was_measured(stub, request_of):
    theirs, ours = [
        (await stub.EstimateRun(request_of(LORA_OF_PEFT | trained_by(program)))).estimate.confidence
        for program in ("TRANSFORMERS", "UNSPECIFIED")
    ]

    assert ours.memory_distance > theirs.memory_distance
    assert "no measured peak or speed is of finetree" in [reason.message for reason in ours.reasons]


@pytest.mark.parametrize("view", ["ESTIMATE_VIEW_BASIC", FULL])
@pytest.mark.service_alone("figures")
async def test_each_answer_carries_the_playbooks_figures_beside_the_computed_ones(stub, request_of, view):
    estimate = (await stub.EstimateRun(request_of(view=view, runs_per_month=2))).estimate
    found = {figure.kind: figure for figure in estimate.playbook}

    assert len(found) == len(estimate_pb2.PlaybookFigureKind.values()) - 1
    for figure in found.values():
        assert figure.provenance.kind == evidence_pb2.PROVENANCE_KIND_PLAYBOOK
        assert figure.provenance.locator
        assert figure.HasField("computed")
        inside = figure.computed.low <= figure.value <= figure.computed.high
        assert bool(figure.note) != inside
    assert found[estimate_pb2.PLAYBOOK_FIGURE_KIND_TIME_HOURS].value == 2
    assert found[estimate_pb2.PLAYBOOK_FIGURE_KIND_COST_USD].value == 3


@pytest.mark.service_alone("figures")
async def test_the_playbook_counts_all_examples_also_where_some_are_held_out(stub, request_of):
    request = request_of({"evaluation": {"split_fraction": 0.2}})
    figure = (await stub.EstimateRun(request)).estimate.playbook[0]

    assert (figure.value, figure.interpolated) == (2, False)


@pytest.mark.service_alone("figures")
async def test_without_a_profile_the_tables_by_size_are_left_out(stub, request_of):
    request = request_of()
    request.ClearField("dataset_profile")
    kinds = {figure.kind for figure in (await stub.EstimateRun(request)).estimate.playbook}

    assert estimate_pb2.PLAYBOOK_FIGURE_KIND_TIME_HOURS not in kinds
    assert estimate_pb2.PLAYBOOK_FIGURE_KIND_GPU_MEMORY_GB in kinds
