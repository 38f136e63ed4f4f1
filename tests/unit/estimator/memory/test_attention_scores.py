# SPDX-License-Identifier: Apache-2.0
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.programs import LITGPT, TRANSFORMERS
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
