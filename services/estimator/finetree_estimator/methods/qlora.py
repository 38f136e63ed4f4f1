# SPDX-License-Identifier: Apache-2.0
"""QLoRA: low-rank adapters on a base that is held in 4 bits (Dettmers et al. 2023), in 8 bits, or by GPTQ."""

from dataclasses import dataclass
from typing import ClassVar, Self

from finetree_estimator.methods.base import FEW_MEASURED, Setup
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import used_copies
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.parameters import linear_weights, routed_weights

NF4_BYTES = 0.5
"""Bytes of a 4-bit weight (QLoRA paper)."""
NF4_CONSTANTS = 4 / 64
"""Bytes per weight of the float32 absmax of each block of 64 weights (QLoRA paper)."""
NF4_DOUBLE_CONSTANTS = 1 / 64 + 4 / (64 * 256)
"""Bytes of constants per weight after double quantization: 0.127 bit (QLoRA paper, section 3)."""
INT8_BYTES = 1.0
"""Bytes of an 8-bit weight (LLM.int8 paper)."""
INT8_CONSTANTS = 0.15
"""Bytes per weight of row scales and outlier columns (canifinetune's measurement)."""
GPTQ_BYTES = 0.5 + 2.5 / 128
"""Bytes of a 4-bit weight with a 16-bit scale and a 4-bit zero point for each group of 128 (GPTQ paper)."""
RAISED_BYTES = 4
"""Bytes per number of embeddings, head and norms that prepare_model_for_kbit_training raises to float32 (PEFT)."""
DEQUANTIZE_BYTES = 4.5
"""Bytes moved per quantized weight and pass to unpack it: read half a byte, write two, and read two in the product."""
UNFUSED_GPTQ_BYTES = 26.5
"""Bytes moved per weight by GPTQ without a fused kernel, as in AutoGPTQ of 2023: bits are shifted out as 32-bit numbers
(0.5 + 4), narrowed (4 + 2), masked (2 + 2), less their zero points (2 + 2), scaled (2 + 2), and read (2) in the
product; on top zeros that are looked up (2)."""


@dataclass(frozen=True, kw_only=True)
class Qlora(Lora):
    """The adapters of LoRA on a packed base."""

    bits: int = 4
    """4 or 8."""
    double_quantized: bool = True
    """Whether the constants of 4-bit blocks are quantized too."""
    gptq: bool = False
    """Whether the 4-bit weights are integers in groups of 128, as GPTQ stores them."""

    name: ClassVar[str] = "qlora"
    packs_base: ClassVar[bool] = True

    @classmethod
    def of(cls, lora: Lora, *, bits: int = 4, double_quantized: bool = True, gptq: bool = False) -> Self:
        """The adapters of `lora` on a packed base."""
        return cls(
            lora.rank,
            lora.targets,
            lora.dropout,
            weight_decomposed=lora.weight_decomposed,
            train_embeddings=lora.train_embeddings,
            train_head=lora.train_head,
            bits=bits,
            double_quantized=double_quantized,
            gptq=gptq,
        )

    # ----------------------------------------------------------------------------------------- what is known of it

    @property
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted on a GPU.

        Libraries pack weights in different ways. That of NF4 was moved outward from 0.10 once 3.6 % of the peaks of
        other sources lay above the ends; that of integers (8 bits and GPTQ), which three libraries and their versions
        lay out and unpack each in another way, from NF4's once seven of 104 such peaks did.
        """
        return 0.20 if self.gptq or self.bits == 8 else self.counted_spread_on_cpu

    @property
    def counted_spread_on_cpu(self) -> float:
        """Half-width, as a share, of the interval of what is counted on a CPU: a single library unpacks there."""
        return 0.12

    @property
    def packs_exactly(self) -> bool:
        """Whether the format says how many bytes weights take: libraries lay out integers in several ways."""
        return not self.gptq and self.bits == 4

    @property
    def measured_on_cpu(self) -> bool:
        """Whether the count of the worker's tensors on a CPU was checked: with 4-bit bases alone."""
        return self.bits == 4

    def remarks(self, setup: Setup) -> tuple[Remark, ...]:
        """Remarks for people: how little was measured, and what of a mixture is not packed."""
        if setup.shape.experts and not setup.program.packs_experts:
            text = "experts stay in 16 bits: bitsandbytes packs linear layers, and experts are stacked parameters"
            return FEW_MEASURED, Remark("EXPERTS_NOT_QUANTIZED", text, "spec.qlora")
        return (FEW_MEASURED,)

    # ------------------------------------------------------------------------------------------------------ weights

    @property
    def base_bits(self) -> int:
        """Bits of the base's packed weights."""
        return self.bits

    @property
    def prepared_for_kbit_training(self) -> bool:
        """Whether PEFT's prepare_model_for_kbit_training raises what is not packed: it leaves a GPTQ model as it is."""
        return not self.gptq

    def base_weights(self, setup: Setup) -> float:
        """Bytes of packed weights without their constants (GPTQ's include them), and of what is not packed."""
        packed = _packed_weights(setup)
        outside = RAISED_BYTES if setup.raises_base else setup.weight_bytes
        return packed * self._packed_bytes + (setup.parameters.total - packed) * outside

    def vision_weights(self, setup: Setup) -> float:
        """Bytes of a vision tower's weights, nearly all of them in linear layers, which are packed with the others."""
        return setup.shape.vision * (self._packed_bytes + self._constants)

    @property
    def _packed_bytes(self) -> float:
        """Bytes of a packed weight without its constants; GPTQ's include them."""
        if self.gptq:
            return GPTQ_BYTES
        return NF4_BYTES if self.bits == 4 else INT8_BYTES

    @property
    def _constants(self) -> float:
        """Bytes of constants per packed weight; GPTQ's are in its weights' bytes."""
        if self.gptq:
            return 0.0
        if self.bits == 8:
            return INT8_CONSTANTS
        return NF4_DOUBLE_CONSTANTS if self.double_quantized else NF4_CONSTANTS

    def quantization_overhead(self, setup: Setup) -> float:
        """Bytes of the constants of blocks, and of the largest matrix unpacked to the compute type.

        One weight matrix at a time is unpacked: the largest is an MLP's, or the head.
        """
        shape = setup.shape
        widest = max(shape.widest_mlp, shape.vocab if setup.program.quantizes_head else 0)
        return _packed_weights(setup) * self._constants + setup.compute_bytes * shape.hidden * widest

    def gathered_layer(self, setup: Setup) -> float:
        """Bytes of one decoder layer's packed weights: shards travel packed, and each product unpacks its own."""
        outside = setup.parameters.outside_layers * setup.weight_bytes
        return (self.base_weights(setup) - outside) / setup.shape.layers

    def gathered_model(self, setup: Setup) -> float:
        """Bytes of all weights as they travel to a device: those of projections packed."""
        packed = _packed_projections(setup) * (setup.gathered_bytes - self.bits / 8)
        return super().gathered_model(setup) - packed

    # --------------------------------------------------------------------------------- kept for the backward pass

    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token of the adapters' inputs in a layer, and of those of the packed products."""
        return super().saved_inputs(setup) + self._packed_inputs(setup)

    def _packed_inputs(self, setup: Setup) -> float:
        """Bytes per token of inputs that the products with packed weights keep although these are frozen.

        They are attributes of the graph's nodes (bitsandbytes' ctx.tensors), which the backward pass does not free:
        where a loop holds a loss until the next one is there, those of the micro-batch before are alive as well.
        Attention's output counts there only, since the softmax keeps that of the present one.
        """
        # bitsandbytes' 8-bit product keeps its input in every version (MatMul8bitLt's saved tensors).
        if self.bits == 4 and not setup.program.keeps_quantized_inputs:
            return 0.0
        shape = setup.shape
        kept = min(2, shape.norms_per_layer) * shape.hidden + shape.mean_mlp_width
        before = kept + shape.mean_q_width if setup.program.keeps_last_loss else 0
        return float(setup.compute_bytes * (kept + before))

    # ------------------------------------------------------------------------------------------------------ traffic

    def adapter_traffic(self, setup: Setup) -> float:
        """Bytes per token and step that the adapters move, and the casts around products with a raised base.

        Behind a raised base every product casts its input to the compute type and its output back, in each pass for
        itself (bitsandbytes' Linear4bit): six bytes a number in 16 bits.
        """
        adapters = super().adapter_traffic(setup)
        if not setup.raises_base:
            return adapters
        shape, passes = setup.shape, 3 if setup.checkpointing else 2
        numbers = sum(
            kind.layers * sum(used_copies(shape, part) * (part.d_in + part.d_out) for part in kind.linears)
            for kind in shape.layer_kinds
        )
        return adapters + float(passes * (4 + setup.compute_bytes) * numbers)

    def dequantization_traffic(self, setup: Setup) -> float:
        """Bytes that unpacking the base before its products moves in one pass, independent of the number of tokens."""
        return _packed_projections(setup) * DEQUANTIZE_BYTES

    def slowest_dequantization_traffic(self, setup: Setup) -> float:
        """Bytes that the slowest kernels in use move beyond that: GPTQ's have changed by a factor of five."""
        return _packed_projections(setup) * (UNFUSED_GPTQ_BYTES - DEQUANTIZE_BYTES) if self.gptq else 0.0


def _packed_weights(setup: Setup) -> int:
    """Weights that are packed: those of linear layers, the head and stacked experts where the program packs them."""
    return _packed_projections(setup) + (setup.parameters.lm_head if setup.program.quantizes_head else 0)


def _packed_projections(setup: Setup) -> int:
    """Weights of the decoder's projections that are packed: stacked experts are none."""
    stacked = 0 if setup.program.packs_experts else routed_weights(setup.shape)
    return linear_weights(setup.shape) - stacked
