# SPDX-License-Identifier: Apache-2.0
"""What the estimator counts of a run on a CPU is what these ways keep: its figures are theirs."""

from finetree_estimator import constants
from finetree_estimator.memory import cpu, cpu_tensors
from finetree_worker.models.families import FAMILIES
from finetree_worker.training import loss
from finetree_worker.training.fused import causal_attention, cross_entropy


def test_the_estimators_figures_of_these_ways_are_their_own() -> None:
    assert cpu.LOGITS_BLOCK == cross_entropy.CPU_BLOCK_BYTES
    assert constants.CHUNK_TOKENS == loss.CHUNK_TARGETS
    assert constants.SHORT_ROW_TOKENS == causal_attention.SHORT_TOKENS
    assert cpu_tensors.QUERY_BLOCK == causal_attention._SHORT_BLOCK
    assert cpu_tensors.NORMS_BY_HAND - {""} == FAMILIES
