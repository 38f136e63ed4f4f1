# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank adapters of linear layers (Hu et al. 2021), and DoRA, which trains their magnitude too.

Counts are those of PEFT for the same settings (Llama-3.2-3B with rank 32 on q and v has 9,175,040 parameters).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from finetree_estimator.methods.base import Method, Setup
from finetree_estimator.methods.targets import SAME_INPUT, adapted, mean_of_layers, target_linears, used_copies
from finetree_estimator.shapes.architecture import Linear, Shape
from finetree_estimator.shapes.parameters import active_parameters, count
from finetree_estimator.shapes.projections import Role

DROPOUT_MASK_BYTES = 1
"""Bytes of the mask per number of an adapter's input: a boolean (torch's native dropout)."""


@dataclass(frozen=True)
class Lora(Method):
    """Low-rank adapters of the projections that `targets` name."""

    rank: int
    targets: tuple[str, ...]
    dropout: float = 0.0
    weight_decomposed: bool = field(default=False, kw_only=True)
    """Whether each adapted weight has a trained magnitude (DoRA, Liu et al. 2024)."""
    train_embeddings: bool = field(default=False, kw_only=True)
    """Whether the input embeddings are trained whole (embed_tokens in PEFT's modules_to_save)."""
    train_head: bool = field(default=False, kw_only=True)
    """Whether the output head is trained whole (lm_head in PEFT's modules_to_save)."""

    name: ClassVar[str] = "lora"
    trained_part: ClassVar[str] = "lora"
    described: ClassVar[str] = "low-rank adapters"

    @property
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted.

        It was moved outward from 0.03 once 3.6 % of the peaks of other sources lay above the ends (Qwen's by up to 3 %,
        where weights are nearly all).
        """
        return 0.07

    # ----------------------------------------------------------------------------------------------------- weights

    def trainable_parameters(self, shape: Shape) -> int:
        """Parameters of both factors of all adapters, of DoRA's magnitudes, and of what is trained whole."""
        factors = sum(layers * self._parameters(linear) for _, linear, layers in adapted(shape, self.targets))
        return factors + self.whole_parameters(shape)

    def whole_parameters(self, shape: Shape) -> int:
        """Parameters of embeddings and head that are trained whole: one table where the head is the embeddings.

        PEFT copies such modules and leaves the originals in the base (ModulesToSaveWrapper).
        """
        tables = int(self.train_embeddings) + int(self.train_head)
        return (min(1, tables) if shape.tied else tables) * shape.vocab * shape.hidden

    @property
    def trains_embeddings(self) -> bool:
        """Whether the input embeddings get a gradient."""
        return self.train_embeddings

    @property
    def trains_head(self) -> bool:
        """Whether the output head gets a gradient of its own weights."""
        return self.train_head

    def _parameters(self, linear: Linear) -> int:
        magnitude = linear.d_out if self.weight_decomposed else 0
        return (self.rank * (linear.d_in + linear.d_out) + magnitude) * linear.copies

    def expert_copies(self, setup: Setup) -> tuple[float, float]:
        """Bytes of summed copies of adapted experts: of all layers until the backward pass, and of one within it.

        PEFT adds the product of an adapter's matrices to the stacked weights of all experts and computes with the sum,
        which the backward pass needs: a second copy of the experts (peft 0.21, a traced step), of one layer where it is
        computed again. Its gradient is as large, one layer at a time.
        """
        routed = [linear.weights for linear in target_linears(setup.shape, self.targets) if linear.routed]
        layer = float(setup.compute_bytes * sum(routed))
        return (0.0, 2 * layer) if setup.checkpointing else (setup.shape.layers * layer, layer)

    # --------------------------------------------------------------------------------- kept for the backward pass

    def fuses_mlp(self, setup: Setup) -> bool:
        """Whether the MLP and its adapters are one function: where all three are adapted and nothing is dropped."""
        shape = setup.shape
        if not setup.program.fuses_adapters or self.dropout > 0:
            return False
        if not shape.gated or shape.experts or shape.mlp_bias:
            return False
        roles = {linear.role for linear in target_linears(shape, self.targets)}
        return roles >= {Role.GATE, Role.UP, Role.DOWN}

    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token of the adapters' inputs in a layer, with dropout masks and DoRA's scaled outputs.

        A copy each, or one for all that read the same tensor; dropout makes them differ.
        """
        copied, fused = self._copied_input_bytes(setup), self.fuses_mlp(setup)
        return mean_of_layers(
            setup.shape, self.targets, lambda linears: self._kept_inputs(setup, linears, copied=copied, fused=fused)
        )

    def _kept_inputs(self, setup: Setup, linears: tuple[Linear, ...], *, copied: int, fused: bool) -> float:
        """Bytes per token of the inputs of these projections' adapters in one layer."""
        total, read = 0.0, set[Role]()
        for linear in linears:
            if fused and linear.role is Role.DOWN:
                continue  # what it reads is computed again
            used = used_copies(setup.shape, linear)
            source = SAME_INPUT.get(linear.role, linear.role)
            if self.dropout > 0 or copied or source not in read:
                total += used * linear.d_in * (copied or setup.stream_bytes)
            if self.dropout > 0:
                total += used * linear.d_in * DROPOUT_MASK_BYTES
            if self.weight_decomposed:
                # The magnitude scales the adapted output, whose parts are kept.
                total += used * 2 * linear.d_out * setup.compute_bytes
            read.add(source)
        return total

    @staticmethod
    def _copied_input_bytes(setup: Setup) -> int:
        """Bytes per number of the copy of its input that each adapter keeps; 0 where it keeps the input itself.

        Gathered from shards, adapters are of the compute type, as their inputs are (param_dtype of torch's
        FullyShardedDataParallel; DeepSpeed's engine). Autocast takes each adapter's input down by itself.
        """
        if not setup.program.copies_adapter_inputs or setup.sharded or setup.compute_bytes == 4:
            return 0
        if setup.weight_bytes > setup.compute_bytes:
            return setup.compute_bytes
        return 4 if setup.stream_bytes < 4 else 0

    def saved_inputs_on_cpu(self, shape: Shape, *, compute_bytes: int, stream_bytes: int) -> float:  # noqa: ARG002
        """Bytes per token of each adapter's input with its dropped copy, and of its first factor's output.

        Projections that read the same tensor share its copy.
        """
        return compute_bytes * mean_of_layers(shape, self.targets, self._kept_features)

    def _kept_features(self, linears: tuple[Linear, ...]) -> float:
        """Features per token of the inputs and narrow outputs of these projections' adapters in one layer."""
        read = {
            linear.role if linear.routed else SAME_INPUT.get(linear.role, linear.role): linear for linear in linears
        }
        inputs = sum(linear.d_in for linear in read.values()) * (2 if self.dropout > 0 else 1)
        return float(inputs + self.rank * len(linears))

    def dropout_source(self, shape: Shape, *, compute_bytes: int, checkpointing: bool) -> float:
        """Bytes per token that the worker's source of dropout masks holds, beyond what the first layer spares.

        A hashed table (16 bits per feature of the widest input) and the newest input, with its dropped copy where
        checkpointing does not let the last layer keep that anyway.
        """
        if not self.dropout:
            return 0.0
        widths = [linear.d_in for linear in target_linears(shape, self.targets)]
        first_mask = 0 if checkpointing else compute_bytes * shape.hidden
        newest = compute_bytes * widths[-1] * (2 if checkpointing else 1)
        return float(2 * max(widths) + newest - first_mask)

    # ------------------------------------------------------------------------------------------- FLOPs and traffic

    def backward_flops_factor(self, shape: Shape) -> float:
        """FLOPs of the backward pass in units of the forward pass: once for inputs, and once for adapted experts.

        The gradient of an expert's adapter is taken from that of its summed weights (`expert_copies`).
        """
        routed = self._adapted_experts(shape)
        if not routed:
            return 1.0
        parameters = count(shape)
        used = active_parameters(shape) - parameters.embeddings - parameters.lm_head
        return 1.0 + routed * max(1, shape.active_experts) / shape.experts / used

    def expert_backward_factor(self, shape: Shape) -> float:
        """The same of routed experts' products: their weights have a gradient where they are adapted."""
        return 2.0 if self._adapted_experts(shape) else 1.0

    def _adapted_experts(self, shape: Shape) -> int:
        """Weights of all routed experts' projections that carry an adapter."""
        if not shape.experts:
            return 0
        return sum(layers * linear.weights for _, linear, layers in adapted(shape, self.targets) if linear.routed)

    def adapter_flops(self, setup: Setup) -> float:
        """FLOPs per token and step: two per parameter forward, four backward, two where it is computed again."""
        factors = self.trainable_parameters(setup.shape) - self.whole_parameters(setup.shape)
        return (6.0 + (2.0 if setup.checkpointing else 0.0)) * factors

    def adapter_traffic(self, setup: Setup) -> float:
        """Bytes per token and step that the adapters move in all layers, counted from PEFT's linear layer.

        `own` are the bytes of the adapter's numbers, `stream` those of what it reads and adds to. Forward, the input is
        cast, dropped out and read, the output written, scaled, added and cast back; backward the same the other way
        round, and each factor's own gradient reads its input. Functions of a program's own read the input as it is,
        and write a product once before they add it (matmul_lora of Unsloth's kernels/utils.py).
        """
        stream, own = setup.stream_bytes, self._own_bytes(setup)
        again = 2 if setup.checkpointing else 1
        if setup.program.fuses_adapters and self.dropout == 0 and not self.weight_decomposed:
            into, out = again * own + own + 4 * stream, again * 4 * stream + 2 * own
        else:
            cast = stream + own if stream != own else 0
            dropped = 2 * own + DROPOUT_MASK_BYTES if self.dropout > 0 else 0
            # A magnitude scales what the adapted product gives: read, written, and its own gradient.
            scaled = 4 * own if self.weight_decomposed else 0
            product = 5 * own + stream + cast + scaled
            into = again * (cast + dropped + own) + 2 * own + dropped + cast + 3 * stream
            out = again * product + cast + 4 * own + scaled
        shape = setup.shape
        found = [(layers * used_copies(shape, each), each) for _, each, layers in adapted(shape, self.targets)]
        return float(sum(times * (each.d_in * into + each.d_out * out) for times, each in found))

    def decomposition_traffic(self, setup: Setup) -> float:
        """Bytes of a pass in which adapters' products meet whole weights, independent of the number of tokens.

        DoRA finds the norms of the adapted weights: the product of an adapter's matrices is written, read and added to
        the weights, and the sum's norm is taken (PEFT). So are sums of adapted experts made (`expert_copies`): product
        written and read, weights read, sum written.
        """
        sums = 4.0 * setup.compute_bytes * self._adapted_experts(setup.shape)
        if not self.weight_decomposed:
            return sums
        own = self._own_bytes(setup)
        weights = sum(layers * linear.weights for _, linear, layers in adapted(setup.shape, self.targets))
        return float(weights * (4 * own + setup.compute_bytes))

    @staticmethod
    def _own_bytes(setup: Setup) -> int:
        """Bytes of an adapter's numbers while it computes: float32 in PEFT, but for shards, which have one type."""
        return 4 if setup.program.copies_adapter_inputs and not setup.sharded else setup.compute_bytes
