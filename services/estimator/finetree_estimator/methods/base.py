# SPDX-License-Identifier: Apache-2.0
"""The questions that every fine-tuning method answers, and what a method sees of the run that it is part of.

The defaults are those of a method that trains something small beside a frozen base. Where a method differs, its file
says so; no other module asks which method a run has.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol

from finetree_estimator.programs import Program
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import Parameters, count

FEW_MEASURED = Remark(
    "METHOD_RARELY_MEASURED", "few measured runs of this method are public: intervals are wider", "spec"
)

ELEMENTWISE_TRAFFIC = 3.6
"""Bytes moved per byte that a prefix or the layers of an adapter method keep for the backward pass, over a whole step.
Fitted when all traffic was counted so."""

STORED_BYTES = 2
"""Bytes per number of a model's weights in its files."""


class Setup(Protocol):
    """What a method sees of its run."""

    @property
    def shape(self) -> Shape:
        """The model as its files have it."""

    @property
    def parameters(self) -> Parameters:
        """Parameters of the model as the program holds it."""

    @property
    def trainable_parameters(self) -> int:
        """Parameters that get a gradient, of the model as the program holds it."""

    @property
    def program(self) -> Program:
        """The program that trains."""

    @property
    def weight_bytes(self) -> int:
        """Bytes per number of the base weights as stored on the device."""

    @property
    def compute_bytes(self) -> int:
        """Bytes per number of activations."""

    @property
    def gathered_bytes(self) -> int:
        """Bytes per number of sharded weights as they are gathered."""

    @property
    def master_bytes(self) -> int:
        """Bytes per number of trainable weights, gradients and optimizer moments."""

    @property
    def stream_bytes(self) -> int:
        """Bytes per number of the residual stream."""

    @property
    def raises_base(self) -> bool:
        """Whether what is not packed of a quantized base, and with it the residual stream, is float32."""

    @property
    def autocasts_trained_weights(self) -> bool:
        """Whether a fully trained model has float32 weights that autocast copies to 16 bits for each product."""

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again."""

    @property
    def sharded(self) -> bool:
        """Whether the weights themselves are spread over devices."""

    @property
    def on_cpu(self) -> bool:
        """Whether a processor trains."""


class FirstLayer(NamedTuple):
    """Bytes per token that parts of the lowest decoder layer keep where something below them is trained, on a CPU."""

    norm: float
    """The first norm."""
    attention: float
    """Attention, norms of the heads included."""
    frozen: float
    """Everything but the inputs of what the method trains."""


class Method(ABC):
    """A fine-tuning method. Each answer is of one run, whose settings the argument `setup` has."""

    name: ClassVar[str]
    """The field of the contract's RunSpec.method: full, lora, qlora, prefix or adapter."""
    trained_part: ClassVar[str]
    """What is trained, whatever the base: full, lora, prefix or adapter. Measured runs are compared by it."""
    described: ClassVar[str]
    """What is trained, in words that follow "a run of"."""
    trains_base: ClassVar[bool] = False
    """Whether the base model's own weights are trained, rather than something beside them."""
    packs_base: ClassVar[bool] = False
    """Whether the base's linear layers are held in 8 bits or less."""
    allows_checkpointing: ClassVar[bool] = True
    """Whether activations may be computed again in the backward pass."""
    joins_keys_and_values: ClassVar[bool] = False
    """Whether attention copies keys and values to put the method's own before them."""

    # ----------------------------------------------------------------------------------------- what is known of it

    @property
    @abstractmethod
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted on a GPU: weights, gradients, optimizer states."""

    @property
    def counted_spread_on_cpu(self) -> float:
        """Half-width, as a share, of the interval of what is counted on a CPU."""
        return self.counted_spread

    @property
    def packs_exactly(self) -> bool:
        """Whether the format of the base's weights says how many bytes they take, whatever library packs them."""
        return True

    @property
    def measured_on_cpu(self) -> bool:
        """Whether the count of the worker's tensors on a CPU was checked against this method."""
        return True

    def remarks(self, setup: Setup) -> tuple[Remark, ...]:  # noqa: ARG002  # a method may need it
        """Remarks on an estimate of this method, for people."""
        return ()

    # ---------------------------------------------------------------------------------------- weights and gradients

    @abstractmethod
    def trainable_parameters(self, shape: Shape) -> int:
        """Parameters that get a gradient."""

    @property
    def base_bits(self) -> int:
        """Bits of a packed base's weights; 0 where it is not packed."""
        return 0

    @property
    def trains_embeddings(self) -> bool:
        """Whether the input embeddings get a gradient."""
        return False

    @property
    def trains_head(self) -> bool:
        """Whether the output head gets a gradient of its own weights."""
        return self.trains_base

    def whole_parameters(self, shape: Shape) -> int:  # noqa: ARG002
        """Parameters of embeddings and output head that are trained whole, as copies beside a frozen base."""
        return 0

    @property
    def layers_without_gradient(self) -> int:
        """Lowest decoder layers that no gradient passes through, so that they keep nothing for the backward pass."""
        return 0

    @property
    def prepared_for_kbit_training(self) -> bool:
        """Whether PEFT's prepare_model_for_kbit_training raises what is not packed of the base to float32."""
        return False

    def base_weights(self, setup: Setup) -> float:
        """Bytes of the weights that the method trains from, before they are spread over devices.

        Autocast keeps 16-bit copies of a frozen float32 base: each product has its own until the backward pass.
        """
        total = setup.parameters.total
        copies = 0.0
        if setup.weight_bytes > setup.compute_bytes:
            copies = total * setup.compute_bytes / (setup.shape.layers if setup.checkpointing else 1)
        return float(total * setup.weight_bytes) + copies

    def vision_weights(self, setup: Setup) -> float:
        """Bytes of a vision tower's weights, before they are spread over devices: no training on text uses them.

        A processor maps 16-bit weights from their file, and reads none that is not used unless it cuts them into
        shards.
        """
        if setup.on_cpu and setup.weight_bytes == STORED_BYTES and not setup.sharded:
            return 0.0
        return float(setup.shape.vision * setup.weight_bytes)

    def quantization_overhead(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes of a packed base's constants and of the room in which one matrix at a time is unpacked."""
        return 0.0

    def gathered_layer(self, setup: Setup) -> float:
        """Bytes of one decoder layer's weights as a device gathers them from the shards of all devices."""
        return setup.gathered_bytes * (setup.parameters.in_layers / setup.shape.layers)

    def gathered_model(self, setup: Setup) -> float:
        """Bytes of all weights as they travel to a device that gathers them once."""
        return count(setup.shape).total * float(setup.gathered_bytes)

    # --------------------------------------------------------------------------------- kept for the backward pass

    @abstractmethod
    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token that one decoder layer keeps for the gradients of what is trained, on a GPU."""

    @abstractmethod
    def saved_inputs_on_cpu(self, shape: Shape, *, compute_bytes: int, stream_bytes: int) -> float:
        """Bytes per token that one decoder layer of the suite's worker keeps for those gradients, on a CPU.

        `stream_bytes` are those per number of the residual stream there.
        """

    def expert_copies(self, setup: Setup) -> tuple[float, float]:  # noqa: ARG002
        """Bytes of summed copies of adapted experts: of all layers until the backward pass, and of one within it."""
        return 0.0, 0.0

    def fuses_mlp(self, setup: Setup) -> bool:  # noqa: ARG002
        """Whether the program makes one function of the MLP and what is trained of it."""
        return False

    def dropout_source(self, shape: Shape, *, compute_bytes: int, checkpointing: bool) -> float:  # noqa: ARG002
        """Bytes per token that the worker's source of dropout masks holds, beyond what the first layer spares."""
        return 0.0

    def spared_in_first_layer(self, kept: FirstLayer) -> float:
        """Bytes per token that the lowest layer does not keep on a CPU, since nothing below it is trained."""
        return kept.norm

    # ------------------------------------------------------------------------------------------- FLOPs and traffic

    def backward_flops_factor(self, shape: Shape) -> float:  # noqa: ARG002
        """FLOPs of the backward pass through the layers' weights in units of the forward pass.

        1 for the gradients of inputs alone; weights that are trained take as much again for their own.
        """
        return 1.0

    def expert_backward_factor(self, shape: Shape) -> float:
        """The same of routed experts' products."""
        return self.backward_flops_factor(shape)

    @property
    def prefix_tokens(self) -> int:
        """Virtual tokens that every token looks at beside those of its row."""
        return 0

    def adapter_flops(self, setup: Setup) -> float:  # noqa: ARG002
        """FLOPs per token and step of what is trained beside the base."""
        return 0.0

    def adapter_traffic(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes per token and step that what is trained beside the base moves, operation by operation, on a GPU.

        All layers together, what is computed again included.
        """
        return 0.0

    def elementwise_traffic(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes per token, step and layer that what is trained moves between a layer's products, on a GPU."""
        return 0.0

    def decomposition_traffic(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes, not per token, of a forward pass in which adapters' products meet whole weights."""
        return 0.0

    def dequantization_traffic(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes that unpacking the base moves in one pass, independent of the number of tokens."""
        return 0.0

    def slowest_dequantization_traffic(self, setup: Setup) -> float:  # noqa: ARG002
        """Bytes that the slowest kernels in use move beyond `dequantization_traffic`, in one pass."""
        return 0.0
