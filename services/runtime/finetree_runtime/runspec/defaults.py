# SPDX-License-Identifier: Apache-2.0
"""Defaults of a RunSpec: the value of each unset field, the reason, and the source of the number."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from finetree_api.types.v1 import (
    check_pb2,
    evidence_pb2,
    hardware_pb2,
    method_pb2,
    run_spec_pb2,
    training_data_pb2,
    training_pb2,
)

from finetree_runtime.runspec.number_formats import cpu_precision

SEQUENCE_LENGTH_STEP = 64
"""Sequence lengths are rounded up to a multiple of this (tokens), so that kernels see few distinct shapes."""
UNKNOWN_SEQUENCE_LENGTH = 2048
"""Sequence length in tokens where nothing is known of the data (recipe policy, max_seq_len)."""
MICRO_BATCH_TOKENS = 8192
"""Tokens that a default micro-batch stays within, unless a single row is longer. Fewer need more calls and reads of the
base for the same rows (benchmarks/results/worker/step_tokens.json); more fill a device's memory. The recommender's
recipes for a GPU keep to the same figure."""
LONGEST_SEQUENCE = 16_777_216
"""Longest sequence in tokens that the contract allows."""
CHECKPOINT_EVERY_STEPS = 100
"""Optimizer steps between checkpoints."""


class Default(NamedTuple):
    """The value of a field that is not set."""

    field_path: str
    """RunSpec path."""
    value: Any
    """Value, of the field's own type."""
    reason: str
    """Reason for people, in one line."""
    kind: evidence_pb2.ProvenanceKind.ValueType = evidence_pb2.PROVENANCE_KIND_COMPUTED
    """Kind of the source."""
    source: str = "finetree defaults"
    """Name of the source."""
    locator: str = ""
    """Place in the source."""

    def setting(self) -> check_pb2.SettingSource:
        """Build the message that says where the value comes from."""
        return check_pb2.SettingSource(
            field_path=self.field_path,
            rule_id=f"default.{self.field_path}",
            reason=self.reason,
            provenance=evidence_pb2.Provenance(kind=self.kind, source=self.source, locator=self.locator),
        )


_LEARNING_RATES: dict[str, tuple[float, str, str]] = {
    "full": (2e-5, "a tenth of the LoRA rate", "LoRA Without Regret (10x rule), alignment-handbook 2e-5"),
    "lora": (2e-4, "usual for LoRA up to 13B", "QLoRA paper, alignment-handbook, Unsloth guide"),
    "qlora": (2e-4, "usual for QLoRA up to 13B", "QLoRA paper, table of hyperparameters"),
    "prefix": (5e-3, "prefixes need a high rate", "PEFT method comparison, MetaMathQA"),
    "adapter": (1e-4, "usual for bottleneck adapters", "AdapterHub documentation"),
}


def defaults_for(
    spec: run_spec_pb2.RunSpec,
    *,
    suggested_length: int,
    positions: int,
    matrix_rates: hardware_pb2.MatrixRates | None,
) -> Iterator[Default]:
    """Yield the defaults of a spec in field order; later ones may read what earlier ones filled in.

    Args:
        spec: The spec, which the caller fills in meanwhile.
        suggested_length: `suggested_sequence_length` of the training data in tokens.
        positions: Longest sequence of the model in tokens; 0 when unknown.
        matrix_rates: Measured rates of the CPU that trains, for the precision; None when unknown.
    """
    method = spec.WhichOneof("method")
    yield from _method_defaults(spec, method)
    yield from _training_defaults(spec, method, _sequence_length(suggested_length, positions))
    yield from _compute_defaults(spec, matrix_rates)
    yield from _hardware_defaults(spec.hardware)
    yield from _evaluation_defaults(spec.evaluation)
    yield Default("checkpoints.every_steps", CHECKPOINT_EVERY_STEPS, "a crash loses at most these steps")
    yield Default("checkpoints.keep", 2, "the newest, and one before it")
    yield Default("checkpoints.keep_best", value=False, reason="needs evaluations while training")
    yield Default("optimizer_in_backward", value=False, reason="it excludes clipping and accumulation of gradients")
    yield Default("program.program", training_pb2.TRAINING_PROGRAM_FINETREE, "this suite's worker")
    yield Default("program.compile", value=False, reason="this suite's worker runs eagerly")


def _method_defaults(spec: run_spec_pb2.RunSpec, method: str | None) -> Iterator[Default]:
    if method in ("lora", "qlora"):
        prefix = "lora" if method == "lora" else "qlora.lora"
        yield from _lora_defaults(spec.lora if method == "lora" else spec.qlora.lora, prefix)
    if method == "qlora":
        yield Default("qlora.quantization", method_pb2.QUANTIZATION_NF4, "4-bit is recommended", *_cite("L182-L197"))
        yield Default(
            "qlora.double_quantization",
            value=True,
            reason="saves 0.37 bit a weight",
            kind=evidence_pb2.PROVENANCE_KIND_PUBLISHED,
            source="QLoRA paper, section 3",
        )
    if method == "prefix":
        yield Default("prefix.virtual_tokens", 20, "20 to 50 train best", *_paper("PEFT method comparison"))
        yield Default(
            "prefix.init", method_pb2.PREFIX_INIT_TEXT, "random starts train worse", *_paper("PEFT method comparison")
        )
    if method == "adapter":
        yield Default("adapter.bottleneck_size", 64, "the size of Houlsby et al.", *_paper("Houlsby et al. 2019"))
        yield Default("adapter.placement", method_pb2.ADAPTER_PLACEMENT_PFEIFFER, "half the cost of Houlsby's")


def _lora_defaults(lora: method_pb2.Lora, prefix: str) -> Iterator[Default]:
    rank = lora.rank if lora.HasField("rank") else 8
    yield Default(f"{prefix}.rank", 8, "recommended rank", *_cite("L161-L180"))
    yield Default(f"{prefix}.alpha", float(2 * rank), "twice the rank", *_cite("L406-L414"))
    if lora.include_experts:
        yield Default(f"{prefix}.dropout", 0.0, "adapters of experts go without")
    yield Default(f"{prefix}.dropout", 0.1, "quick-reference default", *_cite("L406-L414"))
    if not lora.target_modules:
        yield Default(
            f"{prefix}.targets",
            method_pb2.TARGET_PRESET_ALL_LINEAR,
            "attention layers alone score lower",
            *_paper("QLoRA paper, figure 2"),
        )
    yield Default(f"{prefix}.rank_stabilized", value=False, reason="scaled by alpha / rank")
    yield Default(f"{prefix}.weight_decomposed", value=False, reason="DoRA is slower")
    yield Default(f"{prefix}.include_experts", value=False, reason="experts are most of a mixture's parameters")
    yield Default(f"{prefix}.train_embeddings", value=False, reason="no tokens are new")
    yield Default(f"{prefix}.train_head", value=False, reason="no tokens are new")


def _sequence_length(suggested: int, positions: int) -> Default:
    length = suggested or UNKNOWN_SEQUENCE_LENGTH
    if 0 < positions < length:
        return Default("training.sequence_length", positions, "the longest sequence of the model")
    return Default("training.sequence_length", length, "keeps 99 % of the rows whole, or 2048 where unknown")


def _training_defaults(spec: run_spec_pb2.RunSpec, method: str | None, sequence_length: Default) -> Iterator[Default]:
    yield Default("training.epochs", 3.0, "usual below 10,000 examples", *_paper("LLaMA-Factory, Unsloth guides"))
    if method is not None:
        rate, reason, source = _LEARNING_RATES[method]
        yield Default("training.learning_rate", rate, reason, *_paper(source))
    yield Default("training.schedule", training_pb2.SCHEDULE_COSINE, "usual", *_paper("alignment-handbook"))
    yield Default("training.warmup_ratio", 0.1, "usual below 1,000 steps", *_paper("alignment-handbook"))
    yield Default("training.weight_decay", 0.01, "usual", *_paper("torchtune recipes"))
    yield Default("training.max_grad_norm", 1.0, "usual", *_paper("torchtune recipes"))
    yield Default("training.non_finite_limit", 5, "a run rarely recovers from more")
    yield Default("training.effective_batch_size", 16, "at most 32 for LoRA", *_paper("QLoRA paper, torchtune"))
    yield sequence_length
    reason = f"the rows of a step, at most {MICRO_BATCH_TOKENS} tokens at once"
    length = spec.training.sequence_length or sequence_length.value
    rows = default_micro_batch(spec.training.effective_batch_size, length)
    yield Default("training.micro_batch_size", rows, reason)
    yield Default(
        "training.packing", training_pb2.PACKING_ON, "no token is spent on padding", *_paper("torchtune README ladder")
    )
    yield Default("training.loss_tokens", training_pb2.LOSS_TOKENS_COMPLETIONS, "only answers are learned")
    yield Default("training.append_eos", value=True, reason="a model that never sees an end learns to go on")
    yield Default("training.seed", 0, "fixed, so that a run can be repeated")


def _compute_defaults(spec: run_spec_pb2.RunSpec, matrix_rates: hardware_pb2.MatrixRates | None) -> Iterator[Default]:
    on_cpu = spec.hardware.WhichOneof("device") == "cpu"
    method = spec.WhichOneof("method")
    precision = cpu_precision(matrix_rates, method=method) if on_cpu else training_pb2.PRECISION_BF16
    yield Default("precision", precision, "the faster of bfloat16 and float32 on this device")
    yield Default("optimizer", training_pb2.OPTIMIZER_ADAMW, "usual")
    yield Default("attention", training_pb2.ATTENTION_KERNEL_SDPA, "works everywhere")
    yield _checkpointing(spec, on_cpu=on_cpu)
    yield Default("loss_kernel", training_pb2.LOSS_KERNEL_COMPLETION_ONLY, "computes no logits of other tokens")


def _hardware_defaults(hardware: hardware_pb2.Hardware) -> Iterator[Default]:
    if hardware.WhichOneof("device") is None:
        return
    yield Default("hardware.count", 1, "one device")
    if hardware.count > 1:
        yield Default("hardware.sharding", hardware_pb2.SHARDING_REPLICATED, "the usual DDP")
        yield Default("hardware.nodes", 1, "one machine")


def _checkpointing(spec: run_spec_pb2.RunSpec, *, on_cpu: bool) -> Default:
    """On a GPU memory is scarce, and activations take most of it; TRL, Axolotl and others checkpoint by default."""
    path, off = "gradient_checkpointing", training_pb2.GRADIENT_CHECKPOINTING_OFF
    if on_cpu or spec.hardware.WhichOneof("device") is None:
        return Default(path, off, "costs a quarter of the speed")
    if spec.WhichOneof("method") == "prefix":
        return Default(path, off, "prefix tuning excludes it")
    reason = "most of a GPU's memory would be activations"
    return Default(
        path, training_pb2.GRADIENT_CHECKPOINTING_FULL, reason, *_paper("TRL SFTConfig, torchtune README ladder")
    )


def _evaluation_defaults(evaluation: training_pb2.Evaluation) -> Iterator[Default]:
    held_out = evaluation.HasField("dataset") or evaluation.split_fraction > 0
    if not held_out:
        return
    if evaluation.samples:
        # They are answers of that metric: asked for without naming it, there would be none.
        both = [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]
        yield Default("evaluation.metrics", both, "samples are answers that exact match is measured on")
    else:
        yield Default("evaluation.metrics", [training_pb2.METRIC_LOSS], "cheap, and shows when to stop")
    if training_pb2.METRIC_EXACT_MATCH in evaluation.metrics:
        yield Default("evaluation.max_new_tokens", 64, "long enough for short answers")
    yield Default("evaluation.samples", 0, "samples take time")
    yield Default("evaluation.before_training", value=False, reason="it takes as long as the one at the end")


def rows_within(tokens: int, sequence_length: int) -> int:
    """Rows of a forward pass: the largest power of two whose sequences have at most so many tokens, at least one."""
    most = max(1, tokens // sequence_length)
    return 1 << (most.bit_length() - 1)


def default_micro_batch(batch: int, sequence_length: int) -> int:
    """Rows that are computed at once where a spec does not say: the batch, or as many as have few enough tokens."""
    return min(batch, rows_within(MICRO_BATCH_TOKENS, sequence_length))


def suggested_sequence_length(profile: training_data_pb2.DatasetProfile | None) -> int:
    """Sequence length in tokens that truncates at most 1 % of the rows; 0 when lengths are unknown.

    Where lengths are estimated, the longest that they may be count: a limit that is too high costs little, rows that
    are cut lose their end. Where only the average length is known it is twice the average, if that exceeds the default
    for unknown data.
    """
    if profile is None or not profile.token_lengths:
        return _twice_the_average(profile) if profile is not None and profile.examples else 0
    wanted = 0.99 * sum(bucket.count for bucket in profile.token_lengths)
    seen = 0
    bound = 0
    for bucket in sorted(profile.token_lengths, key=lambda item: item.upper_bound):
        seen += bucket.count
        bound = bucket.upper_bound
        if seen >= wanted:
            break
    total, most = profile.total_tokens, profile.total_tokens_range.high
    if 0 < total < most:
        bound = min(-(-bound * most // total), LONGEST_SEQUENCE)
    return -(-bound // SEQUENCE_LENGTH_STEP) * SEQUENCE_LENGTH_STEP


def _twice_the_average(profile: training_data_pb2.DatasetProfile) -> int:
    """Twice the average length of a row in tokens; 0 where that is not above the default, or not allowed."""
    tokens = -(-2 * profile.total_tokens // profile.examples)
    length = -(-tokens // SEQUENCE_LENGTH_STEP) * SEQUENCE_LENGTH_STEP
    return length if UNKNOWN_SEQUENCE_LENGTH < length <= LONGEST_SEQUENCE else 0


def _cite(lines: str) -> tuple[evidence_pb2.ProvenanceKind.ValueType, str, str]:
    return evidence_pb2.PROVENANCE_KIND_PLAYBOOK, "playbook", lines


def _paper(source: str) -> tuple[evidence_pb2.ProvenanceKind.ValueType, str, str]:
    return evidence_pb2.PROVENANCE_KIND_PUBLISHED, source, ""
