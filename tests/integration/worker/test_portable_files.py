# SPDX-License-Identifier: Apache-2.0
"""What the worker writes is loaded by transformers 4 as by 5, with the same logits and the same tokens."""

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.methods import adapter
from finetree_worker.methods.adapter import Adapter, AdapterPlacement
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.prefix import Prefix
from finetree_worker.models import portable_files
from finetree_worker.models.auto_class import auto_class_of, auto_name, auto_name_of
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import LANGUAGE, BaseModel, DataPlan, Method, Optimization, Plan, Precision
from finetree_worker.training.run import adapt, load
from multimodal_models import multimodal_shape
from peft import PeftModel
from safetensors import safe_open

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # peft 0.21 calls transformers 5 by old names.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]

ROOT = Path(__file__).resolve().parents[3]
OWN_UV = ROOT / ".bootstrap" / "bin" / "uv"
UV = str(OWN_UV) if OWN_UV.exists() else shutil.which("uv") or "uv"
OLDER = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2", "peft==0.18.1")
"""Those of the older environment; torch and the rest are this environment's."""
CPU = torch.device("cpu")
TEXT = "one <end> two <tool><x>"

_COMMON: dict[str, Any] = {
    "vocab_size": 270,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_MIXTURE = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONG = {"rope_type": "longrope", "rope_theta": 70.0, "short_factor": [1.0, 1.2, 1.3, 2.0], "long_factor": [3.0] * 4}
_YARN = {"rope_type": "yarn", "rope_theta": 90.0, "factor": 4.0, "original_max_position_embeddings": 32}


def rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


# Base frequencies that no architecture has by default, so that a reader that misses one computes something else.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED | rope(70.0)),
    "llama-3.1": ("LlamaConfig", _GROUPED | {"rope_parameters": _LLAMA3}),
    "qwen2": ("Qwen2Config", _GROUPED | rope(80.0)),
    "qwen3": ("Qwen3Config", _GROUPED | {"head_dim": 16, "rope_parameters": _YARN}),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": 24} | rope(60.0)),
    "gemma2": ("Gemma2Config", _GROUPED | {"head_dim": 16, "sliding_window": 24} | rope(75.0)),
    "gemma3": (
        "Gemma3TextConfig",
        _GROUPED
        | {
            "head_dim": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 2.0},
            },
        },
    ),
    "phi": ("PhiConfig", _COMMON | rope(55.0, partial_rotary_factor=0.75)),
    "phi3": ("Phi3Config", _GROUPED | {"original_max_position_embeddings": 32, "rope_parameters": _LONG}),
    "gpt-neox": ("GPTNeoXConfig", _COMMON | rope(65.0, partial_rotary_factor=0.5)),
    "gpt2": ("GPT2Config", {"vocab_size": 270, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "mixtral": ("MixtralConfig", _GROUPED | _MIXTURE | rope(85.0)),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        _GROUPED | _MIXTURE | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32} | rope(95.0),
    ),
    "qwen2.5-vl": ("Qwen2_5_VLConfig", multimodal_shape("qwen2.5-vl", _GROUPED)),
}
METHODS: dict[str, Method] = {
    "full": Full(),
    "lora": Lora(rank=4, alpha=8.0),
    "prefix": Prefix(5),
    "adapter": Adapter(8, AdapterPlacement.HOULSBY),
}
KINDS = dict.fromkeys(ARCHITECTURES, ("full", "lora")) | {
    "llama": tuple(METHODS),
    "qwen2": tuple(METHODS),
    "gpt2": ("full", "lora", "prefix"),
}
"""Methods by architecture: what is saved of a prefix or an adapter does not depend on it."""


def base_of(name: str, folder: Path) -> Path:
    """A random model with a byte tokenizer, as the worker prepares a base."""
    import transformers
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", additional_special_tokens=["<tool>", "<think>"]
    )
    kind, shape = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**shape)
    model = getattr(transformers, auto_name(config.model_type)).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.12)
    folder.mkdir()
    portable_files.save_model(model, folder, dtype=torch.float32)
    portable_files.save_tokenizer(tokenizer, folder)
    return folder


def saved(base: Path, method: Method, folder: Path) -> Path:
    """An artifact whose every weight differs from the base."""
    data = DataPlan(folder / "rows.jsonl", folder / "work", sequence_length=64)
    optimization = Optimization(1e-3, 2, 2, max_steps=1, warmup_ratio=0.0, precision=Precision.FP32)
    named = base_facts(BaseModel(base, "example/tiny", "main"))
    plan = Plan(named, data, method, optimization, folder / "work", folder / "artifact")
    adapted, subject = adapt(plan, load(plan, CPU), CPU)
    with torch.no_grad():
        for parameter in subject.trainable.values():
            parameter.add_(0.05)
    plan.artifact.mkdir(parents=True)
    tokenizer = load_tokenizer(base)
    method.save(adapted, plan.artifact, base=named, tokenizer=tokenizer, dtype=torch.float32)
    return plan.artifact


def computed(case: dict[str, str]) -> torch.Tensor:
    """Logits of the artifact as transformers 5 loads it."""
    read = auto_class_of(Path(case["base"])).from_pretrained
    if case["kind"] == "full":
        model = read(case["artifact"], dtype=torch.float32)
    elif case["kind"] == "adapter":
        model = adapter.load(read(case["base"], dtype=torch.float32), Path(case["artifact"]))
    else:
        model = PeftModel.from_pretrained(read(case["base"], dtype=torch.float32), case["artifact"])
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=torch.arange(50)[None]).logits
    return logits


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with transformers 4; what it does not have is taken from this one."""
    folder = tmp_path_factory.mktemp("older") / "environment"
    here = sysconfig.get_path("purelib")
    subprocess.run([UV, "venv", "--quiet", "--python", shutil.which("python") or "python", folder], check=True)
    python = folder / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--no-deps", "--python", python, *OLDER]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if "Failed to fetch" in installed.stderr:
        pytest.skip(f"the package index is out of reach, for {', '.join(OLDER)}")
    assert installed.returncode == 0, installed.stderr
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "zz_torch.pth").write_text(f"{here}\n", encoding="utf-8")
    return python


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("portable")
    made = []
    for name, kinds in KINDS.items():
        base = base_of(name, folder / name)
        for kind in kinds:
            artifact = saved(base, METHODS[kind], folder / f"{name}-{kind}")
            about = {"name": f"{name}-{kind}", "artifact": str(artifact), "base": str(base), "kind": kind}
            made.append(about | {"auto_class": auto_name_of(base)})
    return made


@pytest.fixture(scope="module")
def there(cases: list[dict[str, str]], older: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Logits and tokens of each artifact by transformers 4, and of a model whose config.json has new names alone."""
    folder = tmp_path_factory.mktemp("computed")
    newer = folder / "newer"
    shutil.copytree(cases[0]["artifact"], newer)
    config = json.loads((newer / "config.json").read_text(encoding="utf-8"))
    del config["rope_theta"]
    (newer / "config.json").write_text(json.dumps(config), encoding="utf-8")
    listed, output = folder / "cases.json", folder / "found.safetensors"
    spoiled = {"name": "newer", "artifact": str(newer), "base": "", "kind": "full", "auto_class": LANGUAGE}
    listed.write_text(json.dumps([*cases, spoiled]), encoding="utf-8")
    script = Path(__file__).with_name("other_transformers.py")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [older, script, listed, ROOT / "docs" / "adapter-format.md", output]
    ran = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    with safe_open(output, framework="pt") as found:
        assert found.metadata()["transformers"].startswith("4.57")
        return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 - no mapping


def test_transformers_4_and_5_compute_the_same_from_every_artifact(
    cases: list[dict[str, str]], there: dict[str, Any]
) -> None:
    # Gemma 2 rounds its soft caps elsewhere; the others are equal to the bit.
    far = {case["name"]: float((there[f"{case['name']}.logits"] - computed(case)).abs().max()) for case in cases}
    assert {name: distance for name, distance in far.items() if distance > 1e-4} == {}
    assert len(far) > len(ARCHITECTURES)
    # Without the old names transformers 4 would compute something else, and say nothing.
    assert (there["newer.logits"] - computed(cases[0])).abs().max() > 1e-2


def test_both_make_the_same_tokens(cases: list[dict[str, str]], there: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    for case in cases:
        here = AutoTokenizer.from_pretrained(case["artifact"])(TEXT)["input_ids"]
        assert there[f"{case['name']}.tokens"][0].tolist() == here, case["name"]
        assert len(here) == len("one  two <x>") + 2


def test_nothing_of_this_machine_is_in_an_artifact(cases: list[dict[str, str]]) -> None:
    for case in cases:
        texts = [path.read_text(encoding="utf-8") for path in Path(case["artifact"]).glob("*.json")]
        assert all(str(Path(case["base"]).parent) not in text for text in texts), case["name"]
        assert all(word not in text for text in texts for word in ("is_local", "local_files_only")), case["name"]
