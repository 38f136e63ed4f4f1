# SPDX-License-Identifier: Apache-2.0
"""How a program stores a model: which weights there are, in how many bytes, and the types of trained numbers."""

from dataclasses import replace
from functools import lru_cache

from finetree_estimator import constants as c
from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.parameters import count, linear_weights, routed_weights
from finetree_estimator.methods.base import Full, QuantizedLora, trainable_parameters
from finetree_estimator.recipe import Recipe
from finetree_estimator.run import Run


@lru_cache(maxsize=4096)
def stored_shape(recipe: Recipe) -> Shape:
    """The model as the program holds it: some have no tied embeddings."""
    if recipe.program.unties_head and recipe.shape.tied:
        return replace(recipe.shape, tied=False)
    return recipe.shape


def is_mixed(run: Recipe | Run) -> bool:
    """Whether a fully trained model has float32 weights that autocast copies to 16 bits for each product."""
    return isinstance(run.method, Full) and run.compute_bytes < run.master_bytes


def trained_bytes(recipe: Recipe) -> int:
    """Bytes per number of trained weights and gradients: the program may have a type of its own for adapters."""
    if not isinstance(recipe.method, Full) and recipe.program.adapter_bytes:
        return min(recipe.program.adapter_bytes, recipe.master_bytes)
    return recipe.master_bytes


def gradient_bytes(recipe: Recipe) -> int:
    """Bytes per number of gradients: those of 16-bit weights beside float32 masters stay in 16 bits."""
    return recipe.compute_bytes if recipe.program.casts_module and is_mixed(recipe) else trained_bytes(recipe)


def outside_weights(recipe: Recipe) -> int:
    """Weights outside the layers: embeddings and head."""
    counted = count(stored_shape(recipe))
    return counted.embeddings + counted.lm_head


def layer_weights(recipe: Recipe) -> float:
    """Weights of a layer."""
    return (count(stored_shape(recipe)).total - outside_weights(recipe)) / recipe.shape.layers


def base_weights(recipe: Recipe) -> float:
    """Bytes of the weights that a method trains from, before they are spread over devices."""
    counted = count(stored_shape(recipe))
    if recipe.on_cpu and is_mixed(recipe):
        # What is not trained of the worker's float32 weights. Its 16-bit copies come and go with each micro-batch.
        return float((counted.total - trainable_parameters(recipe.method, recipe.shape)) * recipe.master_bytes)
    if not isinstance(recipe.method, QuantizedLora):
        return float(counted.total * recipe.weight_bytes) + _cast_weights(recipe, counted.total)
    packed = packed_weights(recipe)
    outside = c.RAISED_BYTES if recipe.raised else recipe.weight_bytes
    return packed * packed_bytes(recipe.method) + (counted.total - packed) * outside


def packed_weights(recipe: Recipe) -> int:
    """Weights of a quantised base that are packed."""
    packed = linear_weights(recipe.shape)
    if recipe.program.quantizes_head:
        packed += count(stored_shape(recipe)).lm_head
    return packed if recipe.program.packs_experts else packed - routed_weights(recipe.shape)


def packed_bytes(method: QuantizedLora) -> float:
    """Bytes of a quantised weight without its constants; GPTQ's include them."""
    if method.grouped:
        return c.GPTQ_BYTES
    return c.NF4_BYTES if method.bits == 4 else c.INT8_BYTES


def _cast_weights(recipe: Recipe, total: int) -> float:
    """Bytes of 16-bit copies of a frozen float32 base: each product keeps its own until the backward pass."""
    if isinstance(recipe.method, Full) or recipe.weight_bytes <= recipe.compute_bytes:
        return 0.0
    return total * recipe.compute_bytes / (recipe.shape.layers if recipe.checkpointing else 1)
