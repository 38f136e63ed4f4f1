# SPDX-License-Identifier: Apache-2.0
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import preset_targets
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import active_parameters, count, linear_weights


def test_the_dense_layers_of_a_mixture_are_counted_apart():
    shape = Shape(
        64, 5, 32, 4, 4, 16, 1000, experts=8, active_experts=2, dense_layers=2, dense_intermediate=128, shared_expert=48
    )
    attention, norms = 4 * 64 * 64, 2 * 64
    dense = attention + norms + 3 * 64 * 128
    mixture = attention + norms + 8 * 3 * 64 * 32 + 3 * 64 * 48 + 64 * 8

    assert count(shape).total == 2 * 1000 * 64 + 64 + 2 * dense + 3 * mixture
    assert active_parameters(shape) == count(shape).total - 3 * 6 * 3 * 64 * 32
    assert linear_weights(shape) == 2 * (dense - norms) + 3 * (mixture - norms - 64 * 8)
    assert Full(frozen_layers=3).trainable_parameters(shape) == 1000 * 64 + 64 + 2 * mixture
    mlps = Lora(1, preset_targets(shape, "mlp")).trainable_parameters(shape)
    assert mlps == 3 * (2 * (64 + 128) + 3 * (64 + 48))
