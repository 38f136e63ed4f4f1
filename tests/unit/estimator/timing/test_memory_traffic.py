# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.methods.full import Full
from finetree_estimator.programs import FINETREE, PYTORCH, TRANSFORMERS, UNSLOTH, variant
from finetree_estimator.run import Rows
from finetree_estimator.timing import memory_traffic, step_time

ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)


def elementwise(run):
    return step_time.elementwise_seconds(run, ROWS, 800.0)


def test_plain_attention_goes_over_its_scores_again_and_again(make_run):
    """24 bytes forward and 34 backward for each score of a padded row; a fused kernel moves none of them."""
    eager, fused = make_run(eager_attention=True), make_run()
    scores = 28 * 24 * 512

    assert memory_traffic.score_traffic(eager) == (24 + 34) * scores
    assert memory_traffic.score_traffic(replace(eager, checkpointing=True)) == (2 * 24 + 34) * scores
    moved = (elementwise(eager) - elementwise(fused)) * eager.device.bandwidth
    assert moved == pytest.approx(memory_traffic.score_traffic(eager))


@pytest.mark.parametrize(
    ("program", "numbers", "moved"),
    [
        (PYTORCH, {"master_bytes": 2}, 24 + 34),
        (PYTORCH, {"master_bytes": 4}, 32 + 38),
        (PYTORCH, {"master_bytes": 4, "devices": 2, "sharding": "full"}, 24 + 34),
        (TRANSFORMERS, {"master_bytes": 4}, 24 + 34),
        (PYTORCH, {"master_bytes": 4, "compute_bytes": 4}, 32 + 36),
        (variant(PYTORCH, compiled=True, frozen_kept=True), {"master_bytes": 4}, 8 + 12),
    ],
)
def test_scores_are_copied_for_a_softmax_under_autocast_and_fused_by_compilation(make_run, program, numbers, moved):
    run = make_run(eager_attention=True, method=Full(), program=program, **numbers)

    assert memory_traffic.score_traffic(run) == moved * 28 * 24 * 512


@pytest.mark.parametrize(
    ("optimizer", "program", "bytes_moved"),
    [
        ("adamw", FINETREE, 4 * (7 + 3)),
        ("adamw", TRANSFORMERS, 4 * (20 + 3)),
        ("adamw-8bit", TRANSFORMERS, 4 * (3 + 3) + 4),
        ("paged-adamw-8bit", FINETREE, 4 * (3 + 3) + 4),
        ("sgd", TRANSFORMERS, 4 * (3 + 3)),
        ("adafactor", TRANSFORMERS, 4 * (18 + 3)),
    ],
)
def test_an_update_moves_what_its_optimizer_reads_and_writes(make_run, cpu, optimizer, program, bytes_moved):
    run = make_run(optimizer=optimizer, program=program)
    trained = run.trainable_parameters

    assert memory_traffic.update_traffic(run) == trained * bytes_moved
    assert memory_traffic.update_traffic(replace(run, device=cpu)) == trained * (bytes_moved - 4 * 3)


@pytest.mark.parametrize(("program", "bytes_per_logit"), [(UNSLOTH, 10), (TRANSFORMERS, 20 + 12)])
def test_an_overwriting_loss_moves_logits_five_times(make_run, program, bytes_per_logit):
    run = make_run(loss="in-place", program=program)

    assert memory_traffic.loss_traffic(run, run.rows) == bytes_per_logit * 128_256
