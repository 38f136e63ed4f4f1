# SPDX-License-Identifier: Apache-2.0
"""Bytes that a step moves outside of the products of frozen and trained weights, counted operation by operation.

What is small in FLOPs need not be small in time: PEFT's adapters cast, drop, scale and add whole activations around two
thin products, an optimizer goes over its numbers many times, a quantised base is unpacked before each product. Each of
these is bound by the memory's bandwidth, whatever the rate of the matrix units.
"""

from finetree_estimator import constants as c
from finetree_estimator.catalog.architecture import Linear, layer_kinds
from finetree_estimator.catalog.parameters import linear_weights
from finetree_estimator.memory.activations import stream_bytes
from finetree_estimator.methods.base import Full, LoraAdapters, QuantizedLora, target_linears
from finetree_estimator.run import Run


def adapter_bytes(run: Run) -> float:
    """Bytes per token that low-rank adapters move in a step, with what is computed again; 0 for other methods.

    Counted from PEFT's linear layer and its gradients. `own` are the bytes of the adapter's numbers, `stream` those of
    what it reads and adds to. Forward, the input is cast, dropped out and read, the output written, scaled, added and
    cast back; backward the same the other way round, and each factor's own gradient reads its input.
    """
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if not isinstance(method, LoraAdapters):
        return 0.0
    stream, own = stream_bytes(run), _own_bytes(run)
    cast = stream + own if stream != own else 0
    dropped = 2 * own + c.DROPOUT_MASK_BYTES if method.dropout > 0 else 0
    read = cast + dropped + own
    # A magnitude scales what the adapted product gives: read, written, and its own gradient.
    scaled = 4 * own if method.weight_decomposed else 0
    written = 5 * own + stream + cast + scaled
    read_back = 2 * own + dropped + cast + 3 * stream
    written_back = cast + 4 * own + scaled
    again = 2 if run.checkpointing else 1
    linears = target_linears(run.shape, method.targets)
    into = sum(_used(run, each) * each.d_in for each in linears) * (again * read + read_back)
    out = sum(_used(run, each) * each.d_out for each in linears) * (again * written + written_back)
    return float(run.shape.layers * (into + out))


def _own_bytes(run: Run) -> int:
    """Bytes of an adapter's numbers while it computes: float32 in PEFT, but for shards, which have one type."""
    return 4 if run.program.copies_adapter_inputs and not run.sharded else run.compute_bytes


def decomposing_bytes(run: Run) -> float:
    """Bytes of a forward pass in which DoRA finds the lengths of the adapted weights' columns, whatever the tokens.

    The product of an adapter's matrices is written, read and added to the weights, and the sum's norm is taken (PEFT).
    """
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if not isinstance(method, LoraAdapters) or not method.weight_decomposed:
        return 0.0
    own = _own_bytes(run)
    weights = sum(linear.weights for linear in target_linears(run.shape, method.targets))
    return float(run.shape.layers * weights * (4 * own + run.compute_bytes))


def cast_bytes(run: Run) -> float:
    """Bytes per token that a quantised base's products move to leave float32 and to come back, in a step.

    Behind a raised base every product casts its input to the compute type and its output back, in each pass for itself
    (bitsandbytes' Linear4bit): six bytes a number in 16 bits. 0 where the stream has the compute type.
    """
    if not run.raised:
        return 0.0
    passes = 3 if run.checkpointing else 2
    numbers = sum(
        kind.layers * sum(_used(run, part) * (part.d_in + part.d_out) for part in kind.linears)
        for kind in layer_kinds(run.shape)
    )
    return float(passes * (4 + run.compute_bytes) * numbers)


def _used(run: Run, linear: Linear) -> int:
    """Copies of a projection that a token goes through."""
    return max(1, run.shape.active_experts) if linear.routed else 1


def score_bytes(run: Run) -> float:
    """Bytes per token that attention's scores move in a step where each operation goes over them by itself.

    Scores of a whole padded row, whatever is masked.
    """
    forward, backward = _score_traffic(run)
    moved = forward * (2 if run.checkpointing else 1) + backward
    return float(run.shape.layers * run.shape.heads * run.sequence_length * moved)


def _score_traffic(run: Run) -> tuple[int, int]:
    """Bytes moved per attention score, forward and backward."""
    if run.program.compiled:
        return c.COMPILED_SCORE_TRAFFIC
    if run.compute_bytes > 2:
        return c.FLOAT32_SCORE_TRAFFIC
    # Shards, and what DeepSpeed holds, are of 16 bits without autocast.
    shared = run.sharded or run.program.casts_module
    autocast = isinstance(run.method, Full) and run.master_bytes > run.compute_bytes and not shared
    return c.AUTOCAST_SCORE_TRAFFIC if autocast and run.program.own_classes else c.EAGER_SCORE_TRAFFIC


def update_bytes(run: Run, trained: int) -> float:
    """Bytes that an optimizer step moves: clipping of the gradients, and the update."""
    numbers, states = _update_traffic(run)
    # A CPU's bandwidth was measured with both.
    clipped = 0 if run.on_cpu else c.CLIPPING_TRAFFIC
    return trained * (run.master_bytes * (numbers + clipped) + states)


def _update_traffic(run: Run) -> tuple[int, int]:
    """Numbers of the weights' own size, and further bytes of moments, that an update moves for each weight."""
    if run.optimizer in ("adamw-8bit", "paged-adamw-8bit"):
        # One kernel goes over everything once: weight in and out, gradient in, two bytes of moments in and out.
        return 3, 4
    if run.optimizer == "sgd":
        return 3, 0
    if run.optimizer == "adafactor":
        return c.ADAFACTOR_TRAFFIC, 0
    return (c.OPTIMIZER_TRAFFIC if run.program.fused_optimizer else c.UNFUSED_OPTIMIZER_TRAFFIC), 0


def unpacking_bytes(run: Run) -> float:
    """Bytes that unpacking a quantised base moves in one pass, whatever the tokens; 0 where there is none."""
    return linear_weights(run.shape) * c.DEQUANTIZE_BYTES if isinstance(run.method, QuantizedLora) else 0.0


def slower_unpacking_bytes(run: Run) -> float:
    """What the slowest kernels in use add to it: GPTQ's have changed by a factor of five, bitsandbytes' have not."""
    if not isinstance(run.method, QuantizedLora) or not run.method.grouped:
        return 0.0
    return linear_weights(run.shape) * (c.UNFUSED_GPTQ_BYTES - c.DEQUANTIZE_BYTES)
