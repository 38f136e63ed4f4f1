# SPDX-License-Identifier: Apache-2.0
"""What a training step of the real classes keeps, traced with tensors that have sizes but no content.

    python benchmarks/estimator/trace_memory.py [--json OUT]

transformers' own model classes and PEFT's own adapters run forward and backward under a fake-tensor mode that counts
every storage while it is alive: the figures are exact and need neither weights nor a large machine. For each family
the bytes per token that a decoder layer keeps are compared with what the estimator's formulas say.
"""

import argparse
import json
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from finetree_estimator.catalog.devices import by_memory_class
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.methods.base import Method
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import preset_targets
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import Run
from finetree_estimator.shapes.config_json import hf_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

warnings.filterwarnings("ignore")

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4000,
    "max_position_embeddings": 2048,
}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma3_text": {},
    "phi": {},
    "phi3": {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0, "num_key_value_heads": 16},
    "olmo2": {},
    "granite": {},
    "starcoder2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "gpt2": {},
}
"""Family and what it needs beside the sizes."""
_WINDOWS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
_GEMMA4: dict[str, Any] = _WINDOWS | {
    "global_head_dim": 2 * SIZES["head_dim"],
    "vocab_size_per_layer_input": SIZES["vocab_size"],
    "hidden_size_per_layer_input": 0,
}
_ALIKE = {"attention_k_eq_v": True, "num_global_key_value_heads": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 16,
    "kv_lora_rank": 128,
    # Together as wide as values: of others a CPU's attention keeps copies, which no accelerator's does.
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "moe_intermediate_size": 512,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
UNLIKE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gemma-4-31b": ("gemma4_text", _GEMMA4 | _ALIKE),
    "gemma-4-e4b": ("gemma4_text", _GEMMA4 | {"hidden_size_per_layer_input": 256, "half_shared": True}),
    "gemma-4-e2b": (
        "gemma4_text",
        _GEMMA4 | {"hidden_size_per_layer_input": 256, "half_shared": True, "use_double_wide_mlp": True},
    ),
    "gemma-4-26b": (
        "gemma4_text",
        _GEMMA4
        | _ALIKE
        | {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 512},
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "deepseek-v2": ("deepseek_v2", _LATENT | {"q_lora_rank": None}),
    "deepseek-v3": ("deepseek_v3", _LATENT | {"q_lora_rank": 192}),
    "glm-4.7-flash": ("glm4_moe_lite", _LATENT | {"q_lora_rank": 192, "qk_nope_head_dim": 48, "v_head_dim": 80}),
}
"""Models whose layers are of several kinds, or have latents: the family and what they have beside the sizes, two layer
types for as many layers as there are; half of the layers have no keys of their own where it says so."""
LENGTHS = (256, 512)
MORE_LAYERS = 8
"""Layers of the longer of two models; the other has half of them, and a layer is half of what differs."""


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that were made inside it and still exist."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        # Views of weights show up as new tensors of old storages: those count nothing.
        held = (*model.parameters(), *model.buffers())
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


@dataclass(frozen=True, slots=True)
class Traced:
    """Bytes per token that a layer keeps: traced, and by the formulas."""

    family: str
    method: str
    traced: float
    formula: float

    @property
    def error(self) -> float:
        """Relative error of the formula."""
        return self.formula / self.traced - 1


def kept(family: str, method: Method, layers: int, tokens: int) -> int:
    """Bytes that are alive between forward and backward of a model with so many layers and tokens."""
    config = _config(family, layers)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        classes: Any = transformers.AutoModelForCausalLM
        model = classes.from_config(config)
        torch.set_default_dtype(default)
        if isinstance(method, Lora):
            model = with_adapters(model, method)
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialize(model)
        model.train()
        ids = torch.zeros(1, tokens, dtype=torch.long)
        with Alive(model) as alive:
            # As numbers of tokens: of one number Gemma 4 computes its last layers for so many tokens alone.
            out = model(input_ids=ids, use_cache=False, logits_to_keep=torch.zeros(1, dtype=torch.long))
            found: int = alive.now
            del out
    return found


def with_adapters(model: Any, method: Lora) -> Any:
    """The model with PEFT's adapters on it."""
    from peft import LoraConfig, get_peft_model

    # PEFT takes the MLP names of some mixtures for those that their experts had before transformers 5.
    model.config.model_type = "of-no-interest"
    settings = LoraConfig(r=method.rank, target_modules=list(method.targets), task_type="CAUSAL_LM")
    return get_peft_model(model, settings)


def materialize(model: Any) -> None:
    """Give every parameter and buffer on the meta device a fake one on the CPU in its place."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def _config(family: str, layers: int) -> Any:
    if family not in UNLIKE:
        return transformers.AutoConfig.for_model(family, num_hidden_layers=layers, **_sizes(family))
    model_type, given = UNLIKE[family]
    own = {**SIZES, **given}
    if "kv_lora_rank" in own:
        # GLM's name for the width that is turned.
        del own["head_dim"]
    if "layer_types" in own:
        own["layer_types"] = own["layer_types"] * (layers // 2)
    if own.pop("half_shared", False):
        own["num_kv_shared_layers"] = layers // 2
    return transformers.AutoConfig.for_model(model_type, num_hidden_layers=layers, **own)


def _sizes(family: str) -> dict[str, Any]:
    sizes = {**SIZES, **FAMILIES[family]}
    if family == "gpt2":
        shape = {"n_embd": 1024, "n_head": 16, "n_inner": 2816, "vocab_size": 4000, "n_positions": 2048}
        return {**shape, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    known = transformers.AutoConfig.for_model(family).to_dict()
    return {name: value for name, value in sizes.items() if name in known and value is not None}


def trace(family: str, method: Method, name: str) -> Traced:
    """A family's layer, traced and computed."""
    more, fewer = MORE_LAYERS, MORE_LAYERS // 2
    per_layer = {n: (kept(family, method, more, n) - kept(family, method, fewer, n)) / fewer for n in LENGTHS}
    # The CPU's attention keeps a mask of tokens x tokens, which no accelerator does: only the linear part counts.
    short, long = LENGTHS
    linear = (per_layer[short] / short * long - per_layer[long] / long * short) / (long - short)
    # Where layers differ, the mean of those that the longer model has more, as traced.
    sums = [layers * layer_activations(_run(family, method, layers)).saved for layers in (more, fewer)]
    return Traced(family, name, linear, (sums[0] - sums[1]) / fewer)


def _run(family: str, method: Method, layers: int) -> Run:
    config = _config(family, layers)
    return Run(
        shape=hf_config.parse(config.to_dict() | {"model_type": config.model_type}).shape,
        method=method,
        device=by_memory_class(80),
        devices=1,
        micro_batch=1,
        batch=1,
        sequence_length=512,
        packing=False,
        rows=None,
        steps=1,
        weight_bytes=2,
        compute_bytes=2,
        master_bytes=2 if isinstance(method, Full) else 4,
        optimizer="adamw",
        # The CPU's attention repeats grouped keys and values.
        program=replace(TRANSFORMERS, expands_kv=True),
    )


def main() -> None:
    """Trace every family with LoRA on all linear layers and with all weights trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for family in (*FAMILIES, *UNLIKE):
        shape = _run(family, Full(), MORE_LAYERS).shape
        adapters = Lora(8, preset_targets(shape, "all-linear"))
        for name, method in (("full", Full()), ("lora", adapters)):
            try:
                one = trace(family, method, name)
            except (ValueError, TypeError, RuntimeError, KeyError) as error:
                print(f"{family:12} {name:5} could not be traced: {str(error)[:120]}")
                continue
            found.append(one)
            print(f"{family:12} {name:5} traced {one.traced:9.0f}  formula {one.formula:9.0f}  {one.error:+7.1%}")
    if options.json and found:
        rows = [asdict(one) for one in found]
        body = {"torch": torch.__version__, "transformers": transformers.__version__, "sizes": SIZES, "rows": rows}
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
