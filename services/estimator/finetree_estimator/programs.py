# SPDX-License-Identifier: Apache-2.0
"""What a training program decides by itself: number formats and copies that no setting of a run says.

Each was read in the program's source, or found by tracing a training step of the real classes with tensors that have
sizes but no content (benchmarks/estimator/trace_memory.py): what is alive at the peak then comes out to the byte.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Program:
    """How a training program holds what the formulas count."""

    name: str
    """Name in the contract's TrainingProgram, in lower case."""
    rms_norm_bytes: int
    """Bytes per feature that an RMS norm keeps for its backward pass: 4 where it computes on a float32 copy."""
    adapter_bytes: int = 0
    """Bytes per number of an adapter's weights, gradients and moments; 0 means as the precision says."""
    copies_adapter_inputs: bool = False
    """Whether each adapter keeps a float32 copy of its input; otherwise those of one input share it."""
    raises_quantized_base: bool = False
    """Whether everything beside the packed weights of a quantized base, and with it the residual stream, is float32."""
    quantizes_head: bool = False
    """Whether the output head is packed too."""
    unties_head: bool = False
    """Whether the output head is a matrix of its own in models whose embeddings are tied."""
    keeps_fused_projection: bool = False
    """Whether the joint buffer of queries, keys and values stays alive beside its parts."""
    keeps_chunked_logits: bool = False
    """Whether the logits of a chunked loss exist all at once after all."""
    native_loss: bool = False
    """Whether the loss of all logits is computed in their own type unless autocast makes it float32."""
    fused_optimizer: bool = False
    """Whether the optimizer reads and writes each number once."""
    layer_overhead: float = 0.40e-3
    """Seconds per layer and pass in which the device waits for calls. Fitted on runs with short micro-batches."""
    attention_efficiency: float = 0.81
    """Share of the dense products' rate that attention reaches: FlashAttention-2, as in torch since 2.2. Fitted."""
    attention_ceiling: float = 350e12
    """FLOP/s that attention reaches at most, however fast the products are: FlashAttention-2 was written for Ampere and
    is no faster on what came later (35 % of an H100's peak by the FlashAttention-3 paper, arXiv 2407.08608)."""
    gather_overhead: float = 4.85e-3
    """Seconds per layer and gather of sharded weights that nothing hides. Fitted on runs with short micro-batches."""
    loss_chunk: int = 1024
    """Targets whose logits a chunked loss computes at once."""
    casts_chunk_head: bool = False
    """Whether each chunk of a loss is computed with a float32 copy of the output head, which autocast copies again."""
    keeps_quantized_inputs: bool = False
    """Whether a 4-bit layer keeps its input, as bitsandbytes did until 2024 (MatMul4Bit's saved tensors)."""
    keeps_last_loss: bool = False
    """Whether a micro-batch's loss, and with it its graph, lives until the next one's is computed."""
    mixed_base_bytes: int = 2
    """Bytes per number of a frozen base in mixed precision: 4 where the program casts weights for each product."""
    sharded_master: bool = False
    """Whether sharded full training keeps float32 master weights although 16 bits were asked for."""
    keeps_shard_inputs: bool = False
    """Whether each sharded layer without gradients keeps its input and that input's gradient to the end of the backward
    pass when it is recomputed: the hook that is to reshard it holds them (torch's FullyShardedDataParallel,
    _register_post_backward_reshard_only_hook, under reentrant checkpointing; two adapted layers on a CPU show it)."""
    casts_module: bool = False
    """Whether the library that shares the work makes the whole module 16-bit, so that no autocast is needed and none
    raises anything, and keeps float32 copies of what is trained in shards of its own (DeepSpeed's engine and its ZeRO
    optimizers); each update then needs its gradients in float32, too."""
    copies_to_shard: bool = True
    """Whether whole copies of a module exist while it is cut into shards."""
    shards_embeddings: bool = False
    """Whether fully_shard makes units of the embeddings and of an untied head, which are whole only while in use:
    so torchtitan, xtuner and prime-rl; accelerate leaves both in the root unit."""
    gathers_stored: bool = False
    """Whether shards are gathered in the type that they are kept in, and autocast casts them for products; others cast
    as they gather (FSDP's mixed precision)."""
    reduces_float32: bool = False
    """Whether gradients of 16-bit computation are reduced in float32 (torchtitan's and Composer's default) rather than
    as they are (accelerate and Lightning give MixedPrecision one type for everything)."""
    adds_whole_gradients: bool = False
    """Whether the gradients of all but a batch's last micro-batch are added up whole before they are reduced to shards
    (accelerate's no_sync under FSDP)."""
    keeps_frozen_whole: bool = False
    """Whether sharded layers without gradients stay whole from the forward pass to the end of the backward pass."""
    experts_in_turn: bool = False
    """Whether the experts of a mixture are linear layers that are computed one after another, each with the tokens that
    chose it, rather than stacked weights in grouped products."""
    offloads_in_stream: bool = False
    """Whether offloaded layer inputs are copied in the stream of the computation, which waits for them; torchtune and
    TRL copy in a stream of its own (their OffloadActivations)."""
    own_grouped_kernels: bool = False
    """Whether grouped products have kernels of the program's own on every device, where torch has none."""
    compiled: bool = False
    """Whether layers and loss are compiled: what is cheap is computed again rather than kept."""
    compiles_loss: bool = True
    """Whether the loss is part of what is compiled, for its time; a loop of one's own computes it outside the model."""
    cache: str = "kept"
    """What becomes of memory that its allocator holds and nobody uses: kept, emptied (each step) or expandable."""
    fused_norms: bool = False
    """Whether norms and rotary embedding are one kernel each, forward and backward, and norms keep nothing but their
    input as it is (Liger's ops/rms_norm.py, Unsloth's kernels/rms_layernorm.py)."""
    fused_activation: bool = False
    """Whether the MLP's activation and its gate are one kernel, forward and backward."""
    overwrites_halves: bool = False
    """Whether that kernel keeps the halves before the gate alone, in a node of its own, and puts their gradients in
    their place (Liger's ops/swiglu.py and geglu.py)."""
    raises_logits: bool = False
    """Whether logits are copied to float32 before any kernel of the loss sees them (transformers' ForCausalLMLoss)."""
    attends_by_document: bool = False
    """Whether each row of a packed sequence attends by itself."""
    windows_in_kernel: bool = False
    """Whether attention's kernels take sliding windows themselves, whichever is chosen."""
    own_classes: bool = False
    """Whether models are the program's own classes rather than transformers', with native kernels for all families."""
    fuses_adapters: bool = False
    """Whether adapted projections, without dropout, are functions of the program's own that cast nothing (Unsloth's
    kernels/fast_lora.py). An MLP with all three adapted is one of them: it keeps its input and the halves before the
    gate, and overwrites them in the backward pass."""
    mixes_tokens_by_torch: bool = False
    """Whether linear attention is computed by torch's operations rather than by flash-linear-attention's kernels."""
    expands_kv: bool = False
    """Whether grouped keys and values are repeated to one per query head before attention."""
    hands_over_groups: bool = False
    """Whether grouped keys and values go to torch's attention as they are where a kernel of its takes them."""

    @property
    def packs_experts(self) -> bool:
        """Whether the experts of a mixture are packed with the linear layers of a quantized base.

        bitsandbytes replaces linear layers (replace_with_bnb_linear of transformers); stacked experts are none.
        """
        return self.experts_in_turn


FINETREE = Program(
    "finetree",
    rms_norm_bytes=4,
    fused_optimizer=True,
    mixes_tokens_by_torch=True,
    expands_kv=True,
    attends_by_document=True,
    gathers_stored=True,
    reduces_float32=True,
    offloads_in_stream=True,
    cache="expandable",
)
"""The suite's worker: adapter products in the compute type, masks as booleans, attention by document; several devices
by fully_shard as it is, or with copies whose gradients are added once a step."""
TRANSFORMERS = Program(
    "transformers",
    rms_norm_bytes=4,
    copies_adapter_inputs=True,
    raises_quantized_base=True,
    mixed_base_bytes=4,
    sharded_master=True,
    loss_chunk=256,
    casts_chunk_head=True,
    keeps_shard_inputs=True,
    adds_whole_gradients=True,
    raises_logits=True,
    hands_over_groups=True,
)
"""transformers and PEFT: adapters are float32 and cast their inputs (autocast_adapter_dtype); a quantized base is
prepared by prepare_model_for_kbit_training; accelerate raises sharded trainable weights to float32 (its FSDP guide).
Experts are grouped, as from version 5 on (grouped_mm_experts_forward of its integrations/moe.py). A loss in chunks is
TRL's, its default since 2026-06 (chunked_nll, huggingface/trl@f2cd5771 sft_trainer.py); by then TRL took a
quantized base as it was loaded."""
LITGPT = Program(
    "litgpt",
    rms_norm_bytes=4,
    adapter_bytes=2,
    quantizes_head=True,
    unties_head=True,
    keeps_fused_projection=True,
    keeps_chunked_logits=True,
    loss_chunk=128,
    keeps_quantized_inputs=True,
    keeps_last_loss=True,
    mixed_base_bytes=4,
    keeps_frozen_whole=True,
    experts_in_turn=True,
    own_classes=True,
)
"""LitGPT in "bf16-true": adapters too are 16-bit; one projection makes queries, keys and values, whose values are a
view of it; bitsandbytes replaces every linear layer, the head included, which is never tied (its model.py); the head's
chunks are kept for the loss. Norms compute in float32 since 2023-10-24: its resource tables are four days older."""
TORCHTUNE = Program(
    "torchtune",
    rms_norm_bytes=4,
    adapter_bytes=2,
    keeps_chunked_logits=True,
    fused_optimizer=True,
    loss_chunk=256,
    own_classes=True,
    cache="expandable",
)
"""torchtune: everything in the one dtype of its configuration; the recipes' AdamW is fused; importing it asks for
segments that expand."""
UNSLOTH = Program(
    "unsloth",
    rms_norm_bytes=2,
    fused_norms=True,
    fused_activation=True,
    adapter_bytes=4,
    keeps_shard_inputs=True,
    fuses_adapters=True,
    adds_whole_gradients=True,
    offloads_in_stream=True,
    windows_in_kernel=True,
    own_grouped_kernels=True,
    cache="expandable",
)
"""Unsloth: kernels of its own, for grouped experts too, that keep a norm's input as it is, and an MLP with its adapters
in one (LoRA_MLP of its kernels/fast_lora.py); `to` copies layer inputs to the host and back (its
Unsloth_Offloaded_Gradient_Checkpointer); importing it asks for segments that expand."""
AXOLOTL = replace(TRANSFORMERS, name="axolotl", raises_quantized_base=False)
"""Axolotl and LLaMA-Factory: transformers' Trainer and PEFT, and a base prepared by themselves, as it was loaded."""
LLM_FOUNDRY = Program(
    "llm-foundry",
    rms_norm_bytes=2,
    adapter_bytes=4,
    keeps_fused_projection=True,
    fused_optimizer=True,
    layer_overhead=0.28e-3,
    gather_overhead=0.9e-3,
    attention_efficiency=0.435,
    attention_ceiling=180e12,
    own_classes=True,
    reduces_float32=True,
)
"""LLM Foundry: MPT's classes under FSDP with low-precision layer norms, and attention of the first FlashAttention."""
PYTORCH = Program(
    "pytorch",
    rms_norm_bytes=4,
    native_loss=True,
    own_classes=True,
    shards_embeddings=True,
    reduces_float32=True,
    compiles_loss=False,
)
"""A plain loop: torch's AdamW as it comes, and torch's cross-entropy of logits that a variable of the loop holds."""


def variant(
    program: Program,
    *,
    compiled: bool,
    frozen_kept: bool,
    cache: str = "",
    casts_module: bool = False,
    experts_in_turn: bool | None = None,
    layers: str = "",
) -> Program:
    """The program as a run uses it.

    `compiled`: layers and loss are compiled. Without `frozen_kept`, weights are spread by a library that keeps nothing
    of frozen layers and builds no whole copies to cut into shards. `cache` is what becomes of unused memory, where it
    is said. `casts_module`: the library makes all of it 16-bit and brings a fused optimizer. `experts_in_turn`: how a
    mixture's experts are computed, where it is said. `layers`: which of a
    layer's operations are Liger's kernels, norms or all of them; empty where they are the program's own.
    """
    if layers:
        program = replace(program, fused_norms=True, rms_norm_bytes=2)
    if layers == "all":
        program = replace(program, fused_activation=True, overwrites_halves=True)
    if experts_in_turn is not None:
        program = replace(program, experts_in_turn=experts_in_turn)
    if casts_module:
        program = replace(program, casts_module=True, copies_adapter_inputs=False, fused_optimizer=True)
    if cache:
        program = replace(program, cache=cache)
    if not frozen_kept:
        program = replace(program, keeps_shard_inputs=False, copies_to_shard=False)
    return replace(program, compiled=True, rms_norm_bytes=2) if compiled else program


def unraised(program: Program) -> Program:
    """The program where nobody raises what is not packed of a quantized base."""
    return replace(program, raises_quantized_base=False)
