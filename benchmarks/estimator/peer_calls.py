# SPDX-License-Identifier: Apache-2.0
"""Asks one other estimator, in an environment that has only it: cases as JSON on stdin, answers as JSON on stdout.

    PYTHON_OF_THE_PEER peer_calls.py ftuneai < cases.json > answers.json

It imports nothing of this project. A case is what `peers.case` makes of a measured row; an answer holds `peak_bytes`
(or null), `tokens_per_second` (or null) and, where there is no answer, `reason`: what the peer cannot be told. Every
peer is called through the function that its own program calls, with the exact parameter count and dimensions.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

GIB = 2**30
Case = dict[str, Any]
Answer = dict[str, Any]
MANY_ROWS = 1_000_000
"""Rows of the run whose hours are asked for, so that a peer's rounding of hours does not show."""


class CannotSayError(Exception):
    """The peer has no input for something that the case depends on."""


def ftuneai(case: Case) -> Answer:
    """ftuneai: dimensions, method, batch, checkpointing, flash attention, LoRA on q+v, all attention or all linears."""
    from ftuneai.core import memory, models, time

    _only(case, methods=("full", "lora", "qlora"))
    presets = {"q,v": "attention", "attention": "attention_all", "all-linear": "all_linear"}
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
    )
    config = models.TrainingConfig(
        method=models.FineTuneMethod(case["method"]),
        quantization=models.Quantization("4bit" if case["method"] == "qlora" else "none"),
        batch_size=case["micro_batch"],
        seq_length=case["sequence_length"],
        gradient_checkpointing=case["checkpointing"],
        lora_rank=case["rank"] or 16,
        lora_target=models.LoRATarget(_preset(case, presets)),
        flash_attention=True,
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
    hours = time.TimeEstimator(spec, config).estimate(gpu, MANY_ROWS, epochs=1).total_hours
    return {"peak_bytes": peak, "tokens_per_second": MANY_ROWS * case["sequence_length"] / (hours * 3600)}


def canifinetune(case: Case) -> Answer:
    """canifinetune: dimensions, quantisation, LoRA on q+v, attention or all linears, attention kernel, the card's size.

    Its peak is its total without the margin of 5 % of the card that it adds for safety and reports apart.
    """
    from canifinetune.estimator import EstimateRequest, estimate

    _only(case, methods=("full", "lora", "qlora"))
    if case["weights"] != case["compute"]:
        raise CannotSayError("weights in another number format than the computation")
    families = {"llama", "qwen2", "mistral", "phi", "phi3", "gpt2", "gemma", "mixtral"}
    if case["method"] != "full" and case["family"] not in families:
        raise CannotSayError(f"LoRA on the family {case['family']}")
    presets = {"q,v": "conservative", "attention": "attention", "all-linear": "all_linear"}
    request = EstimateRequest(
        model_id=case["model"],
        method=case["method"],
        seq_len=case["sequence_length"],
        micro_batch_size=case["micro_batch"],
        base_dtype=case["compute"],
        quantization={"nf4": "nf4", "nf4-dq": "nf4_double_quant"}.get(case["quant"], "none"),
        lora_rank=case["rank"] or 16,
        lora_target_scope=_preset(case, presets),
        optimizer="adamw_torch",
        gradient_checkpointing=case["checkpointing"],
        attention_implementation="flash_attention_2" if case["attention"] == "flash" else "sdpa",
        gpu_vram_gb=case["gpu_gib"],
        use_network=False,
        override={
            "family": case["family"],
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


def fitcheck(case: Case) -> Answer:
    """fitcheck-llm: dimensions, NF4 and double quantisation, LoRA on any Llama linears, flash or eager, the card."""
    from fitcheck import ModelConfig, TrainingConfig, estimate, get_gpu

    _only(case, methods=("full", "lora", "qlora"))
    if case["weights"] != case["compute"]:
        raise CannotSayError("weights in another number format than the computation")
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
        quantization="nf4" if case["method"] == "qlora" else "none",
        double_quant=case["quant"] == "nf4-dq",
        # Pure bf16 training keeps the optimizer's moments in bf16 too.
        optimizer_dtype="bf16" if case["method"] == "full" and case["compute"] == "bf16" else "fp32",
        batch_size=case["micro_batch"],
        seq_len=case["sequence_length"],
        lora_rank=None if case["method"] == "full" else case["rank"],
        lora_targets=case["targets"],
        grad_checkpoint=case["checkpointing"],
        flash_attn=True,
    )
    cards = {"l40s": "l40s", "a100-40gb": "a100-40", "h100": "h100-80", "h100-pcie": "h100-80"}
    found = estimate(model, training, get_gpu(cards.get(case["accelerator"], "a100-80")))
    return {"peak_bytes": found.total_mib * 2**20}


def unsloth(case: Case) -> Answer:
    """Unsloth (its Studio's): dimensions, LoRA on any linears, checkpointing, attention kernel; no float32 weights.

    It describes Unsloth's kernels (no logits in full); the module is loaded by its path, since the package's own
    import asks for a GPU.
    """
    _only(case, methods=("full", "lora", "qlora"))
    if case["weights"] == "fp32":
        raise CannotSayError("weights in float32")
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
    )
    config = vram.TrainingVramConfig(
        training_method=case["method"],
        batch_size=case["micro_batch"],
        max_seq_length=case["sequence_length"],
        lora_rank=case["rank"] or 16,
        target_modules=case["targets"],
        gradient_checkpointing="true" if case["checkpointing"] else "none",
        optimizer="adamw_torch",
        load_in_4bit=case["method"] == "qlora",
        attention_implementation="flash_attention_2" if case["attention"] == "flash" else "sdpa",
    )
    return {"peak_bytes": vram.estimate_training_vram(arch, config).total}


def gpu_estimator(case: Case) -> Answer:
    """gpu-estimator: parameters, batch, length, number format, checkpointing, a GPU's name; full fine-tuning only."""
    from gpu_estimator import GPUEstimator

    _only(case, methods=("full",))
    cards = {"l40s": "L40", "a100-40gb": "A100", "h100": "H100", "h100-pcie": "H100"}
    found = GPUEstimator().estimate(
        model_params=case["parameters"],
        batch_size=case["micro_batch"],
        sequence_length=case["sequence_length"],
        precision=case["weights"],
        optimizer="adamw",
        gpu_type=cards.get(case["accelerator"], "A100"),
        gradient_checkpointing=case["checkpointing"],
        dataset_size=MANY_ROWS,
        epochs=1,
    )
    seconds = found.estimated_training_hours * 3600 * found.num_gpus
    tokens = MANY_ROWS * case["sequence_length"]
    return {"peak_bytes": found.total_memory_gb * GIB, "tokens_per_second": tokens / seconds}


def alloc(case: Case) -> Answer:
    """alloc: parameters, width, batch, length, number format, optimizer; full fine-tuning only, no checkpointing."""
    from alloc.ghost import ghost

    _only(case, methods=("full",))
    if case["checkpointing"]:
        raise CannotSayError("gradient checkpointing")
    found = ghost(
        param_count=case["parameters"],
        dtype="float32" if case["weights"] == "fp32" else "bfloat16",
        batch_size=case["micro_batch"],
        seq_length=case["sequence_length"],
        hidden_dim=case["hidden"],
        optimizer_type="AdamW",
    )
    return {"peak_bytes": found.total_gb * GIB}


PEERS: dict[str, Callable[[Case], Answer]] = {
    "ftuneai": ftuneai,
    "canifinetune": canifinetune,
    "fitcheck-llm": fitcheck,
    "unsloth": unsloth,
    "gpu-estimator": gpu_estimator,
    "alloc": alloc,
}


def _only(case: Case, methods: tuple[str, ...]) -> None:
    if case["method"] not in methods:
        raise CannotSayError(f"the method {case['method']}")
    if case["variant"] == "dora":
        raise CannotSayError("DoRA")


def _preset(case: Case, presets: dict[str, str]) -> str:
    """The peer's name for the LoRA targets. Keys have values' shape, so that q+k costs what q+v does."""
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    known = {
        frozenset({"q_proj", "v_proj"}): "q,v",
        frozenset({"q_proj", "k_proj"}): "q,v",
        frozenset(attention): "attention",
        frozenset(attention | {"gate_proj", "up_proj", "down_proj"}): "all-linear",
        frozenset(): "q,v",
    }
    found = known.get(frozenset(case["targets"]))
    if found is None:
        raise CannotSayError("LoRA on these modules")
    return presets[found]


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


def _answer(peer: Callable[[Case], Answer], case: Case) -> Answer:
    nothing: Answer = {"peak_bytes": None, "tokens_per_second": None, "reason": ""}
    try:
        return nothing | peer(case)
    except CannotSayError as reason:
        return nothing | {"reason": f"cannot be told: {reason}"}
    except (ValueError, KeyError) as error:
        return nothing | {"reason": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Answer all cases; whatever a peer prints goes to stderr."""
    peer = PEERS[sys.argv[1]]
    cases = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answers = [_answer(peer, case) for case in cases]
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
