# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.attention_scores import shared_mask_bytes
from finetree_estimator.programs import FINETREE, LITGPT, TRANSFORMERS, UNSLOTH
from finetree_estimator.run import Rows


def test_eager_attention_keeps_its_scores(make_run):
    plain, eager = make_run(), make_run(eager_attention=True)

    assert layer_activations(eager).saved - layer_activations(plain).saved == (4 + 2) * 24 * 512


def test_float32_groups_of_queries_keep_scores_where_no_mask_is_needed(make_run):
    """Torch's kernels for groups take no float32: its own products keep every score, and keys and values once for each
    query head, as a traced call does (sdpa_kernel(SDPBackend.MATH), enable_gqa)."""

    def beyond_kernels(**changes: object) -> float:
        run = make_run(**{"program": TRANSFORMERS, "weight_bytes": 4, "compute_bytes": 4} | changes)
        return layer_activations(run).scores

    whole = {"rows": Rows(count=1000, mean=512.0, mean_square=512.0**2, longest=512, target_fraction=0.5)}
    repeated, scores = 2 * 4 * (24 - 8) * 128, 4 * 24 * 512

    assert beyond_kernels() == repeated
    assert beyond_kernels(**whole) == beyond_kernels(micro_batch=1) == repeated + scores
    assert beyond_kernels(**whole, compute_bytes=2) == beyond_kernels(**whole, program=LITGPT) == 0
    assert beyond_kernels(**whole, shape=model("llama-2-7b").shape) == 0


def test_a_window_is_a_mask_for_torchs_attention_where_a_row_is_longer(make_run):
    """Mistral-7B v0.1: 16-bit numbers of the mask for each layer, one for each of 8,192 tokens; booleans once.

    transformers repeats eight heads of keys and values to 32 where there is a mask.
    """
    run = make_run(shape=model("mistral-7b-v0.1").shape, rows=None, sequence_length=8192)
    repeated = 2 * 2 * (32 - 8) * 128

    def kept(**changes: object) -> tuple[float, float]:
        changed = replace(run, **changes)
        return layer_activations(changed).scores, shared_mask_bytes(changed)

    assert kept(program=FINETREE) == (2 * 8192, 8192)
    assert kept(program=TRANSFORMERS) == (2 * 8192 + repeated, 8192)
    assert kept(program=TRANSFORMERS, sequence_length=4096) == (0, 0)
    assert kept(flash_attention=True) == kept(program=UNSLOTH) == (0, 0)
    assert kept(eager_attention=True) == ((4 + 2) * 32 * 8192, 0)


def test_layers_that_attend_to_all_keep_no_mask(make_run):
    """Gemma 2 2B: every other of 26 layers has a window of 4,096."""
    run = make_run(shape=model("gemma-2-2b").shape, rows=None, sequence_length=8192)

    assert layer_activations(run).scores == 2 * 8192 / 2
