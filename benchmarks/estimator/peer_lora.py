# SPDX-License-Identifier: Apache-2.0
"""The estimators that know LoRA and QLoRA, each asked through the function that its own program calls.

Part of `peer_calls.py`: it imports nothing of this project but words. Each function says what its peer can be told.
"""

import sys
from importlib import util
from pathlib import Path
from typing import Any

from peer_words import (
    GIB,
    KERNELS,
    MANY_ROWS,
    QUANTIZED_BITS,
    Answer,
    CannotSayError,
    Case,
    only,
    preset,
    recomputes,
    told,
)


def ftuneai(case: Case) -> Answer:
    """ftuneai: dimensions, method, batch, checkpointing, flash attention, LoRA on q+v, all attention or all linears.

    Of several devices their number and what they share.
    """
    from ftuneai.core import memory, models, time

    only(case, methods=("full", "lora", "qlora"), several=True)
    sharing = {"full": "fsdp", "gradients": "zero_2", "optimizer": "zero_1"}
    presets = {"q,v": "attention", "attention": "attention_all", "all-linear": "all_linear"}
    optimizers = {"adamw": "adamw", "adamw-8bit": "adam_8bit", "paged-adamw-8bit": "adam_8bit"}
    spec = models.ModelSpec(
        name=case["model"],
        parameters=case["parameters"],
        hidden_size=case["hidden"],
        num_layers=case["layers"],
        num_attention_heads=case["heads"],
        num_kv_heads=case["kv_heads"],
        intermediate_size=case["intermediate"],
        vocab_size=case["vocab"],
        max_seq_length=case["sequence_length"],
        default_dtype="float32" if case["weights"] == "fp32" else "bfloat16",
        is_moe=case["experts"] > 0,
        num_experts=case["experts"] or None,
        num_active_experts=case["active_experts"] or None,
    )
    config = models.TrainingConfig(
        method=models.FineTuneMethod(case["method"]),
        quantization=models.Quantization(QUANTIZED_BITS.get(case["quant"], "none")),
        batch_size=case["micro_batch"],
        seq_length=case["sequence_length"],
        gradient_checkpointing=recomputes(case),
        optimizer=models.OptimizerType(optimizers.get(case["optimizer"], case["optimizer"])),
        lora_rank=case["rank"] or 16,
        lora_target=models.LoRATarget(preset(case, presets)),
        flash_attention=case["attention"] != "eager",
        sharding=models.ShardingStrategy(sharing.get(case["sharding"], "none")),
        num_gpus=case["devices"],
    )
    gpu = models.GPUSpec(
        name=case["accelerator"],
        vram_gb=case["gpu_gib"],
        fp16_tflops=case["gpu_flops"] / 1e12,
        bf16_tflops=case["gpu_flops"] / 1e12,
        fp32_tflops=case["gpu_flops"] / 2e12,
        memory_bandwidth_gbps=0,
    )
    peak = memory.MemoryEstimator(spec, config).estimate().total_gb * GIB
    hours = time.TimeEstimator(spec, config).estimate(gpu, MANY_ROWS, epochs=1, num_gpus=case["devices"]).total_hours
    return {"peak_bytes": peak, "tokens_per_second": MANY_ROWS * case["sequence_length"] / (hours * 3600)}


def canifinetune(case: Case) -> Answer:
    """canifinetune: dimensions, quantization, LoRA on q+v, attention or all linears, attention kernel, the card's size.

    Its peak is its total without the margin of 5 % of the card that it adds for safety and reports apart.
    """
    from canifinetune.estimator import EstimateRequest, estimate

    only(case, methods=("full", "lora", "qlora"))
    if case["weights"] != case["compute"]:
        raise CannotSayError("weights in another number format than the computation")
    family = _family(case)
    presets = {"q,v": "conservative", "attention": "attention", "all-linear": "all_linear"}
    optimizers = {
        "adamw": "adamw_torch",
        "adamw-8bit": "adamw_8bit",
        "paged-adamw-8bit": "paged_adamw_8bit",
        "sgd": "sgd",
    }
    quantizations = {"nf4": "nf4", "nf4-dq": "nf4_double_quant", "int8": "int8", "gptq_int4": "int4"}
    request = EstimateRequest(
        model_id=case["model"],
        method=case["method"],
        seq_len=case["sequence_length"],
        micro_batch_size=case["micro_batch"],
        base_dtype=case["compute"],
        quantization=quantizations.get(case["quant"], "none"),
        lora_rank=case["rank"] or 16,
        lora_target_scope=preset(case, presets),
        optimizer=told(optimizers, case["optimizer"], "the optimizer"),
        gradient_checkpointing=recomputes(case),
        attention_implementation=KERNELS[case["attention"]],
        loss_backend="liger" if case["fused_loss"] else "stock",
        gpu_vram_gb=case["gpu_gib"],
        use_network=False,
        override={
            "family": family,
            "hidden_size": case["hidden"],
            "num_hidden_layers": case["layers"],
            "num_attention_heads": case["heads"],
            "num_key_value_heads": case["kv_heads"],
            "intermediate_size": case["intermediate"],
            "vocab_size": case["vocab"],
            "tie_word_embeddings": case["tied"],
            "total_params": case["parameters"],
        },
    )
    found = estimate(request).memory
    return {"peak_bytes": (found.total_estimated_gb - found.safety_margin_gb) * GIB}


def _family(case: Case) -> str:
    """Canifinetune's own, by which it knows what a set of LoRA modules is; for other gated models a Llama's."""
    for known in ("qwen", "gemma", "llama"):
        if case["family"].startswith(known):
            return "qwen2" if known == "qwen" else known
    if case["method"] == "full" or case["family"] in {"mistral", "phi", "phi3", "gpt2", "mixtral"}:
        return str(case["family"])
    if not case["gated"] or case["experts"]:
        raise CannotSayError(f"LoRA on the family {case['family']}")
    return "llama"


def fitcheck(case: Case) -> Answer:
    """fitcheck-llm: dimensions, NF4 and double quantization, LoRA on any Llama linears, flash or eager, the card."""
    from fitcheck import ModelConfig, TrainingConfig, estimate, get_gpu

    only(case, methods=("full", "lora", "qlora"))
    if case["weights"] != case["compute"]:
        raise CannotSayError("weights in another number format than the computation")
    if case["experts"]:
        raise CannotSayError("experts")
    optimizers = {"adamw": "adamw", "adamw-8bit": "adam8bit", "paged-adamw-8bit": "adam8bit", "sgd": "sgd"}
    quantizations = {"none": "none", "nf4": "nf4", "nf4-dq": "nf4", "int8": "int8"}
    model = ModelConfig(
        name=case["model"],
        num_params=case["parameters"],
        hidden_size=case["hidden"],
        num_layers=case["layers"],
        num_attention_heads=case["heads"],
        num_kv_heads=case["kv_heads"],
        intermediate_size=case["intermediate"],
        vocab_size=case["vocab"],
        head_dim=case["head_dim"],
        tie_word_embeddings=case["tied"],
    )
    training = TrainingConfig(
        precision=case["compute"],
        quantization=told(quantizations, case["quant"], "a base of"),
        double_quant=case["quant"] == "nf4-dq",
        optimizer=told(optimizers, case["optimizer"], "the optimizer"),
        # Pure bf16 training keeps the optimizer's moments in bf16 too.
        optimizer_dtype="bf16" if case["method"] == "full" and case["compute"] == "bf16" else "fp32",
        batch_size=case["micro_batch"],
        seq_len=case["sequence_length"],
        lora_rank=None if case["method"] == "full" else case["rank"],
        lora_targets=case["targets"],
        grad_checkpoint=recomputes(case),
        flash_attn=case["attention"] != "eager",
    )
    cards = {"l40s": "l40s", "a100-40gb": "a100-40", "h100": "h100-80", "h100-pcie": "h100-80", "t4": "t4", "l4": "l4"}
    cards |= {"a100-80gb": "a100-80", "a100-80gb-pcie": "a100-80", "rtx-4090": "4090", "rtx-3090": "3090"}
    card = cards.get(case["accelerator"])
    found = estimate(model, training, get_gpu(card, None if card else int(case["gpu_gib"] * 1024)))
    return {"peak_bytes": found.total_mib * 2**20}


def unsloth(case: Case) -> Answer:
    """Unsloth (its Studio's): dimensions, LoRA on any linears, checkpointing, attention kernel; no float32 weights.

    Of several devices their number, where they share everything.

    It describes Unsloth's kernels (no logits in full); the module is loaded by its path, since the package's own
    import asks for a GPU.
    """
    only(case, methods=("full", "lora", "qlora"), several=case["sharding"] == "full")
    if case["weights"] == "fp32":
        raise CannotSayError("weights in float32")
    optimizers = {
        "adamw": "adamw_torch",
        "adamw-8bit": "adamw_8bit",
        "paged-adamw-8bit": "paged_adamw_8bit",
        "sgd": "sgd",
    }
    if case["quant"] == "int8":
        raise CannotSayError("a base of 8 bits")
    own = case["checkpointing"] == "offloaded" or (case["unsloth"] and case["checkpointing"] != "off")
    vram = _module("studio/backend/utils/hardware/vram_estimation.py")
    arch = vram.ModelArchConfig(
        hidden_size=case["hidden"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"],
        num_key_value_heads=case["kv_heads"],
        intermediate_size=case["intermediate"],
        vocab_size=case["vocab"],
        tie_word_embeddings=case["tied"],
        head_dim=case["head_dim"],
        num_experts=case["experts"] or None,
        num_experts_per_tok=case["active_experts"] or 1,
    )
    config = vram.TrainingVramConfig(
        training_method=case["method"],
        batch_size=case["micro_batch"],
        max_seq_length=case["sequence_length"],
        lora_rank=case["rank"] or 16,
        target_modules=case["targets"],
        gradient_checkpointing="unsloth" if own else "true" if recomputes(case) else "none",
        optimizer=told(optimizers, case["optimizer"], "the optimizer"),
        load_in_4bit=case["method"] == "qlora",
        attention_implementation=KERNELS[case["attention"]],
    )
    return {"peak_bytes": vram.estimate_training_vram(arch, config).min_gpu_vram(case["devices"])}


def _module(path: str) -> Any:
    for folder in map(Path, sys.path):
        if (file := folder / path).is_file():
            spec = util.spec_from_file_location(file.stem, file)
            if spec is not None and spec.loader is not None:
                module = util.module_from_spec(spec)
                sys.modules[file.stem] = module
                spec.loader.exec_module(module)
                return module
    raise FileNotFoundError(path)
