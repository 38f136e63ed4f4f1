# SPDX-License-Identifier: Apache-2.0
"""Every method on tiny random models of the real classes: packed as alone, loss falls, what is saved is reloaded."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.control import Steering
from finetree_worker.data.dataset import load_dataset
from finetree_worker.data.packing import collate
from finetree_worker.data.prefixes import Sharing
from finetree_worker.errors import PlanError
from finetree_worker.events.eta import Eta
from finetree_worker.methods import adapter
from finetree_worker.methods.adapter import Adapter, AdapterPlacement
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.prefix import Prefix
from finetree_worker.methods.qlora import Qlora
from finetree_worker.models.auto_class import auto_class_of
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import BaseModel, Checkpointing, DataPlan, Method, Optimization, Plan, Precision, Schedule
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.loop import Loop
from finetree_worker.training.loss import hidden_states, sharing, target_scores
from finetree_worker.training.run import adapt, load
from hybrid_models import HYBRIDS
from multimodal_models import MULTIMODAL, multimodal_shape
from peft import PeftModel

# peft 0.21 calls transformers 5 by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]

CPU = torch.device("cpu")
_COMMON: dict[str, Any] = {
    "vocab_size": 260,
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
_GPT2 = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_MIXTURE = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4}
_LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
_GEMMA3: dict[str, Any] = _GROUPED | {"head_dim": 16, "sliding_window": 24}
_GEMMA4: dict[str, Any] = _GROUPED | {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 260,
    "num_kv_shared_layers": 0,
}
# E2B and E4B: the last layers have no keys and values of their own, and twice as wide an MLP.
_GEMMA4_SHARED: dict[str, Any] = _GEMMA4 | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
}
# 12B and larger ones: in full attention keys are the values; 26B has experts beside the MLP.
_ALIKE = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
_GEMMA4_EXPERTS: dict[str, Any] = (
    _GEMMA4
    | _ALIKE
    | {
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    }
)
_GEMMA4_UNIFIED: dict[str, Any] = {name: value for name, value in (_GEMMA4 | _ALIKE).items() if "per_layer" not in name}
# As many layers as the language model has, and projections of the same names.
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", _GROUPED | {"head_dim": 16}),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": 24}),
    "gemma2": ("Gemma2Config", _GROUPED | {"head_dim": 16, "sliding_window": 24}),
    "gemma3": ("Gemma3TextConfig", _GEMMA3),
    "gemma3 with images": (
        "Gemma3Config",
        {"text_config": _GEMMA3, "vision_config": _VISION, "mm_tokens_per_image": 4},
    ),
    "phi": ("PhiConfig", _COMMON),
    "gpt-neox": ("GPTNeoXConfig", _COMMON),
    "gpt2": ("GPT2Config", _GPT2),
    "mixtral": ("MixtralConfig", _GROUPED | _MIXTURE),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        _GROUPED | _MIXTURE | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "gpt-oss": ("GptOssConfig", _GROUPED | _MIXTURE | {"head_dim": 16, "sliding_window": 24}),
    "gemma4": ("Gemma4TextConfig", _GEMMA4),
    "gemma4 with shared keys": ("Gemma4TextConfig", _GEMMA4_SHARED),
    "gemma4 with experts": ("Gemma4TextConfig", _GEMMA4_EXPERTS),
    "gemma4 unified": (
        "Gemma4UnifiedConfig",
        {
            "text_config": _GEMMA4_UNIFIED | {"pad_token_id": 0},
            "vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32},
            "audio_config": {"audio_embed_dim": 16},
        },
    ),
    "gemma4 with images": (
        "Gemma4Config",
        {"text_config": _GEMMA4 | {"pad_token_id": 0}, "vision_config": _VISION},
    ),
    "deepseek-v3": ("DeepseekV3Config", _COMMON | _MIXTURE | _LATENT | {"first_k_dense_replace": 1}),
    "glm-4.7-flash": ("Glm4MoeLiteConfig", _COMMON | _MIXTURE | _LATENT | {"mlp_layer_types": ["dense", "sparse"]}),
    **{name: (config, _GROUPED | own) for name, (config, own) in HYBRIDS.items()},
    "qwen3.5 with images": (
        "Qwen3_5Config",
        {"text_config": _GROUPED | HYBRIDS["qwen3.5"][1], "vision_config": {"hidden_size": 32, "depth": 2}},
    ),
    **{name: (config, multimodal_shape(name, _GROUPED)) for name, (config, *_) in MULTIMODAL.items()},
}
GEMMA4 = {name for name in ARCHITECTURES if name.startswith("gemma4")}
WITH_STATES = {*HYBRIDS, "qwen3.5 with images", "lfm2-vl"}
WITHOUT_PREFIX = {*WITH_STATES, *GEMMA4, "deepseek-v3", "glm-4.7-flash"}
"""Models whose layers do not all keep keys and values of one shape and nothing else."""
LORA = Lora(rank=4, alpha=8.0, dropout=0.1)
METHODS: dict[str, Method] = {
    "full": Full(),
    "lora": LORA,
    "qlora": Qlora(LORA),
    "prefix": Prefix(5),
    "adapter": Adapter(8, AdapterPlacement.HOULSBY),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model and a byte tokenizer."""
    import transformers
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    transformers.utils.logging.disable_progress_bar()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("architectures") / request.param
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>").save_pretrained(folder)
    kind, shape = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    auto = transformers.AutoModelForImageTextToText if "vision_config" in shape else transformers.AutoModelForCausalLM
    model = auto.from_config(getattr(transformers, kind)(**shape), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.12)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def plan(base: Path, tmp_path: Path) -> Plan:
    rows = [{"prompt": f"say {c} {'x' * n}", "completion": c * 3} for n, c in enumerate("abcdef")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    optimization = Optimization(
        learning_rate=5e-3,
        batch_size=len(rows),
        micro_batch_size=4,
        max_steps=2,
        warmup_ratio=0.0,
        schedule=Schedule.CONSTANT,
        precision=Precision.FP32,
    )
    named = base_facts(BaseModel(base, "example/tiny", "main"))
    data = DataPlan(file, tmp_path / "work", sequence_length=64)
    return Plan(named, data, LORA, optimization, tmp_path / "work", tmp_path / "artifact")


def reloaded(plan: Plan) -> Any:
    """The artifact on a fresh base, as whoever gets it loads it."""
    if isinstance(plan.method, Full):
        return auto_class_of(plan.base.folder).from_pretrained(plan.artifact)
    fresh = load(plan, CPU)
    if isinstance(plan.method, Adapter):
        return adapter.load(fresh, plan.artifact)
    return PeftModel.from_pretrained(fresh, plan.artifact)


@pytest.mark.parametrize("kind", METHODS)
def test_a_method_learns_and_its_artifact_is_the_trained_model(plan: Plan, kind: str, quiet: Any) -> None:
    chosen = replace(plan, method=METHODS[kind])
    if kind == "prefix" and plan.base.folder.name in WITHOUT_PREFIX:
        with pytest.raises(PlanError, match="do not all keep keys and values of one shape and no other state"):
            adapt(chosen, load(chosen, CPU), CPU)
        return
    adapted, subject = adapt(chosen, load(chosen, CPU), CPU)
    tokenizer = load_tokenizer(plan.base.folder)
    rows = load_dataset(chosen.data, tokenizer, lambda *_: None).train
    eta = Eta(chosen.evaluation, chosen.checkpoints)
    Loop(chosen, subject, rows, reporter=quiet, steering=Steering(quiet), eta=eta).run(lambda _: None)
    losses = [step.loss for step in quiet.of(event_pb2.StepMetrics)]
    assert losses[-1] < losses[0]
    chosen.artifact.mkdir()
    chosen.method.save(adapted, chosen.artifact, base=chosen.base, tokenizer=tokenizer, dtype=torch.float32)
    verdict = chosen.method.compatibility(chosen.artifact, chosen.base.folder)
    assert verdict.loads, verdict.reason
    ids = torch.arange(50)[None]
    with torch.no_grad():
        subject.model.train(mode=False)
        ours = (adapted if kind == "prefix" else subject.model)(input_ids=ids).logits
        theirs = reloaded(chosen).eval()(input_ids=ids).logits
        untrained = load_model(plan.base.folder, torch.float32, device=CPU).eval()(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert (ours - untrained).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["full", "lora", "adapter"])
def test_all_that_is_trained_reads_text_and_the_artifact_holds_no_more(plan: Plan, kind: str) -> None:
    """What has no gradient in training on text, as a vision tower, is not counted, not kept, and not changed."""
    method = replace(LORA, dropout=0.0) if kind == "lora" else METHODS[kind]
    chosen = replace(plan, method=method)
    adapted, subject = adapt(chosen, load(chosen, CPU), CPU)
    example = Example(0, torch.arange(40, dtype=torch.int32), torch.ones(40, dtype=torch.bool))
    with by_document(subject.model):
        target_scores(subject.model, collate([example]))[0].sum().backward()
    untyped: Any = adapted
    trained = {name: p for name, p in untyped.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    chosen.artifact.mkdir()
    tokenizer = load_tokenizer(plan.base.folder)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1.0)
    chosen.method.save(adapted, chosen.artifact, base=chosen.base, tokenizer=tokenizer, dtype=torch.float32)
    found = dict(reloaded(chosen).named_parameters())
    assert set(found) == set(dict(untyped.named_parameters()))
    own = dict(load(plan, CPU).named_parameters())
    changed = {name for name, p in found.items() if name not in own or not torch.equal(p, own[name])}
    if kind == "full":
        assert changed == set(trained)
        left = any(re.search(r"vision_tower|vision_model|visual|embed_vision", name) for name in set(own) - changed)
        assert left is hasattr(untyped.config, "vision_config")


def test_packed_documents_have_the_states_that_they_have_alone(plan: Plan) -> None:
    model = load(plan, CPU).eval()
    documents = [
        Example(row, (torch.arange(length, dtype=torch.int32) * 7 + row) % 256, torch.ones(length, dtype=torch.bool))
        for row, length in enumerate((40, 33, 9))
    ]
    first = 0
    with torch.no_grad():
        with by_document(model):
            packed = hidden_states(model, collate(documents))
        for document in documents:
            untyped: Any = model
            alone = untyped.get_decoder()(input_ids=document.tokens[None].long()).last_hidden_state[0]
            torch.testing.assert_close(packed[first : first + len(document)], alone, atol=1e-5, rtol=0)
            first += len(document)


def test_documents_with_a_shared_prefix_have_the_losses_that_they_have_alone(plan: Plan) -> None:
    """Windows, bounded scores and learned positions included: here documents share whatever their length."""
    model = load(plan, CPU).eval()
    if plan.base.folder.name in WITH_STATES:
        assert sharing(model) is None
        return
    header = torch.arange(30, dtype=torch.int32) * 5 % 256
    documents = [
        Example(
            row,
            torch.cat([header, (torch.arange(rest, dtype=torch.int32) * 7 + row) % 256]),
            torch.arange(30 + rest) > 31,
        )
        for row, rest in enumerate((25, 18, 9))
    ]
    alone, shared = collate(documents), collate(documents, Sharing(overhead=0))
    assert shared.tokens == alone.tokens - 60
    with torch.no_grad(), by_document(model):
        expected, found = target_scores(model, alone)[0], target_scores(model, shared)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_layers_that_are_computed_again_give_the_same_gradients(plan: Plan) -> None:
    """Layers that take keys and values of a layer below find them there the second time too."""
    documents = [Example(0, torch.arange(40, dtype=torch.int32), torch.ones(40, dtype=torch.bool))]
    found: list[dict[str, torch.Tensor]] = []
    for again in (False, True):
        chosen = replace(plan, method=Full())
        if again:
            optimization = replace(chosen.optimization, gradient_checkpointing=Checkpointing.FULL)
            chosen = replace(chosen, optimization=optimization)
        _, subject = adapt(chosen, load(chosen, CPU), CPU)
        subject.model.train()
        with by_document(subject.model):
            target_scores(subject.model, collate(documents))[0].sum().backward()
        found.append({name: p.grad for name, p in subject.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)
