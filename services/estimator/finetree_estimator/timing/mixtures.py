# SPDX-License-Identifier: Apache-2.0
"""What the routed experts of a mixture add to a micro-batch's time beyond the products that its tokens need.

One after another, experts take a layer's calls each. Grouped, they are one product over stacked weights, whose kernel
works in tiles of rows: each expert's last tile is partly empty. It reads the weights of every expert that some token
chose, however few tokens that are, and reaches less of the device's rate the narrower they are.
"""

import math

from finetree_estimator import constants as c
from finetree_estimator.run import Run
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import routed_weights

PRODUCTS = 2
"""Products of an expert in each pass: gate and up together, and down (transformers' grouped_mm_experts_forward)."""


def chosen_experts(shape: Shape, tokens: float) -> float:
    """Experts of a layer that at least one of so many tokens chose, were each choice as likely as any other."""
    if not shape.experts:
        return 0.0
    # log1p: a layer may have as many experts as a token chooses.
    left = math.exp(tokens * math.log1p(-shape.active_experts / shape.experts)) if _chooses(shape) else 0.0
    return shape.experts * (1.0 - left)


def grouped_seconds(run: Run, tokens: float) -> float:
    """Seconds that grouped products of a micro-batch of so many tokens take longer than as many FLOPs of dense ones.

    Each pass takes what its tiles' FLOPs take at the rate of grouped products, or the reading of the chosen experts'
    weights if that is longer. Gradients of trained experts are a pass of their own, which writes as much.
    """
    shape = run.shape
    if not shape.experts or run.on_cpu or run.program.experts_in_turn or tokens <= 0:
        return 0.0
    weights, chosen = routed_weights(shape), chosen_experts(shape, tokens)
    rows = tokens * shape.active_experts
    plain = 2.0 * weights / shape.experts * rows / run.device.training_flops
    rate = shape.intermediate / (shape.intermediate + c.GROUPED_HALF_RATE_WIDTH)
    padded = plain * (1.0 + chosen * c.GROUP_TILE / 2 / rows) / rate
    read = weights * chosen / shape.experts * run.compute_bytes / run.device.bandwidth
    return grouped_passes(run) * (max(padded, read) - plain)


def grouped_passes(run: Run) -> float:
    """Passes over the experts' products: forward, again where recomputed, and backward for inputs and weights."""
    return 1.0 + (1.0 if run.checkpointing else 0.0) + run.method.expert_backward_factor(run.shape)


def expert_calls(run: Run) -> float:
    """Calls of a layer's pass that its experts add, in units of those of a plain layer; 0 in a dense model.

    In turn, each takes as many as a layer and waits for the list of its tokens. Grouped, tokens are sorted, counted and
    put back; where torch has no kernel for the device, each product is a loop over the experts.
    """
    if not run.shape.experts:
        return 0.0
    if run.program.experts_in_turn:
        return float(run.shape.experts)
    loops = 0.0
    if not (run.device.grouped_products or run.program.own_grouped_kernels):
        loops = PRODUCTS * run.shape.experts * c.LOOPED_PRODUCT_SECONDS / run.program.layer_overhead
    return c.ROUTING_CALLS + loops


def _chooses(shape: Shape) -> bool:
    """Whether a token leaves some expert out."""
    return 0 < shape.active_experts < shape.experts
