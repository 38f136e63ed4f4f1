# SPDX-License-Identifier: Apache-2.0
"""What of a run decides how much its model takes and computes, whatever its rows, its devices' rates and prices."""

from dataclasses import dataclass, field
from functools import lru_cache

from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.methods.base import Method, QuantizedLora
from finetree_estimator.programs import Program


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What of a run decides how much its model takes and computes, whatever the rows: the key of all that is counted.

    The fields are the run's; those of the same names mean the same. Equal ones come from `recipe_of` as one and the
    same: the key of half a dozen caches goes by its identity.
    """

    shape: Shape
    method: Method
    program: Program
    optimizer: str
    weight_bytes: int
    compute_bytes: int
    master_bytes: int
    devices: int
    sharding: str
    nodes: int
    checkpointing: bool
    in_backward: bool
    """Whether each weight is updated as soon as its gradient is there."""
    one_micro_batch: bool
    """Whether a device's share of the batch is a single micro-batch."""
    on_cpu: bool

    sharded: bool = field(init=False)
    """Whether the weights themselves are spread over devices."""
    raised: bool = field(init=False)
    """Whether what is not packed of a quantised base, and with it the residual stream, is float32.

    prepare_model_for_kbit_training (PEFT) leaves a GPTQ model as it is, and TRL and the FSDP examples do not call
    it for a sharded one: a shard is one flat tensor, so that all of a unit's weights have one type.
    """
    activation_bytes: int = field(init=False)
    """Bytes per number of what layers and head give: float32 after a raised base that no autocast takes down."""

    def __post_init__(self) -> None:
        sharded = self.sharding == "full" and self.devices > 1
        quantized = isinstance(self.method, QuantizedLora) and not self.method.grouped
        raises = self.program.raises_quantized_base and not self.program.casts_module
        raised = quantized and raises and not sharded
        autocast = self.weight_bytes > self.compute_bytes
        object.__setattr__(self, "sharded", sharded)
        object.__setattr__(self, "raised", raised)
        object.__setattr__(self, "activation_bytes", 4 if raised and not autocast else self.compute_bytes)


recipe_of = lru_cache(maxsize=4096)(Recipe)
"""The recipe with these fields, in their order."""
