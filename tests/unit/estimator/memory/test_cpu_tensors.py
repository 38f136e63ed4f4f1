# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import cpu_tensors, peak
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.run import Rows

EQUAL = Rows(count=400, mean=256.0, mean_square=65_536.0, longest=256, target_fraction=0.2)


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


@pytest.fixture
def small(make_run, cpu):
    """SmolLM2-135M on a CPU, fully trained, one micro-batch of four equal rows a step."""
    return make_run(
        shape=model("smollm2-135m-instruct").shape,
        device=cpu,
        method=Full(),
        master_bytes=2,
        batch=4,
        sequence_length=256,
        packing=True,
        rows=EQUAL,
    )


def test_long_rows_keep_no_scores(small):
    """Up to 256 tokens probabilities are kept, of the keys that a block of 64 queries sees; beyond it none."""
    short, long = cpu_tensors.kept_per_token(small), cpu_tensors.kept_per_token(longer(small))
    assert short - long == 9 * 2 * (256 + 64) / 2


def test_in_float32_long_rows_have_torchs_kernel(small):
    """Keys and values for each query head, a normalizer per row, and an output that the next product shares."""
    exact = replace(small, weight_bytes=4, compute_bytes=4, master_bytes=4)
    own = 4 * (576 + 2 * 192) + 9 * 4 * (256 + 64) / 2 + 4 * 576
    kernel = 4 * 4 * 576 + 9 * 4
    assert cpu_tensors.kept_per_token(exact) - cpu_tensors.kept_per_token(longer(exact)) == own - kernel


def test_a_family_whose_norms_are_plain_keeps_their_inputs_in_float32(small):
    frozen = replace(small, method=Lora(8, PRESETS["all-linear"], 0.1), master_bytes=4)
    plain = replace(frozen, shape=replace(frozen.shape, family="olmo2"))
    assert cpu_tensors.kept_per_token(plain) - cpu_tensors.kept_per_token(frozen) == 2 * 576 * 2


def longer(run):
    return replace(run, rows=replace(EQUAL, mean=512.0, mean_square=512.0**2, longest=512), sequence_length=512)


def test_projections_that_read_the_same_tensor_share_its_dropped_copy(small):
    adapted = {
        name: cpu_tensors.kept_per_token(replace(small, method=Lora(8, PRESETS[name], 0.1), master_bytes=4))
        for name in ("query-value", "attention")
    }

    # The output projection's input with its mask, and the narrow outputs of two more adapters.
    assert adapted["attention"] - adapted["query-value"] == 2 * 2 * 576 + 2 * 2 * 8


@pytest.mark.parametrize(("places", "first"), [(1, False), (2, True)], ids=["after the MLP", "after attention too"])
def test_below_the_first_bottleneck_nothing_is_kept(small, places, first):
    """Of a single layer only what stands behind its first bottleneck is kept: that one's input, or the MLP as well."""
    bottleneck = replace(small, method=Adapter(64, places), master_bytes=4)
    tokens, copies = 4 * 256, 2 * bottleneck.method.trainable_parameters(replace(small.shape, layers=1))
    alone = parts(replace(bottleneck, shape=replace(small.shape, layers=1)))[Component.ACTIVATIONS]

    inputs, last_norm = places * 2 * (576 + 64), 2 * 576
    mlp = 2 * 576 + 3 * 2 * 1536 if first else 0
    assert alone == tokens * (inputs + last_norm + mlp) + copies
