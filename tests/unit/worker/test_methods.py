# SPDX-License-Identifier: Apache-2.0
"""What holds for every method: the loss falls, only what is trained changes, a resume is bit-equal, peft loads it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker import evaluate, events, loading, methods, models
from finetree_worker.attention import by_document
from finetree_worker.errors import Cancelled, ModelError, PlanError
from finetree_worker.events import Signal
from finetree_worker.formats import Message, Row
from finetree_worker.loss import hidden_states
from finetree_worker.methods import adapter
from finetree_worker.packing import Example, collate
from finetree_worker.plan import (
    AdapterMethod,
    BaseModel,
    FullMethod,
    LoraMethod,
    Method,
    Optimization,
    OptimizerName,
    Placement,
    Precision,
    PrefixInit,
    PrefixMethod,
    QloraMethod,
    Quantization,
    TrainPlan,
)
from finetree_worker.prepare import base_facts
from finetree_worker.train import adapt, load, train
from safetensors.torch import load_file
from torch import nn

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]

LORA = LoraMethod(rank=4, alpha=8.0, dropout=0.2)
METHODS: dict[str, Method] = {
    "full": FullMethod(),
    "full-frozen": FullMethod(frozen_layers=1),
    "lora": LORA,
    "rslora": replace(LORA, rank_stabilized=True),
    "dora": replace(LORA, weight_decomposed=True),
    "nf4": QloraMethod(LORA),
    "nf4-single": QloraMethod(LORA, double_quantization=False),
    "fp4": QloraMethod(LORA, Quantization.FP4),
    "int8": QloraMethod(LORA, Quantization.INT8),
    "prefix": PrefixMethod(6),
    "prefix-zero": PrefixMethod(6, PrefixInit.ZERO),
    "pfeiffer": AdapterMethod(8),
    "houlsby": AdapterMethod(8, Placement.HOULSBY),
    "parallel": AdapterMethod(8, Placement.PARALLEL),
    "qdora": QloraMethod(replace(LORA, weight_decomposed=True)),
}
"""Every method and the settings of its own that change what is computed."""
CPU = torch.device("cpu")


@dataclass
class Recorder:
    """Keeps all events, and asks for a pause after a step."""

    pause_after: int = 0
    events: list[Any] = field(default_factory=list)
    asked: Signal = Signal.NONE

    def emit(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, events.StepMetrics) and event.step == self.pause_after:
            self.asked = Signal.PAUSE

    def poll(self) -> Signal:
        return self.asked

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def plan(base_folder: Path, tmp_path: Path, write_rows: Callable[..., Path], chat_rows: list[Any]) -> TrainPlan:
    return TrainPlan(
        base=BaseModel(base_folder, "example/tiny", "main"),
        dataset=write_rows(chat_rows),
        method=LORA,
        optimization=Optimization(
            learning_rate=5e-3,
            batch_size=4,
            micro_batch_size=4,
            sequence_length=128,
            max_steps=6,
            precision=Precision.FP32,
        ),
        work=tmp_path / "work",
        artifact=tmp_path / "artifact",
    )


@pytest.fixture(params=METHODS.values(), ids=METHODS.keys())
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


def run(plan: TrainPlan, recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    train(plan, recorder, recorder)
    return recorder


def tuned(plan: TrainPlan, **changes: Any) -> TrainPlan:
    return replace(plan, optimization=replace(plan.optimization, **changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(next(folder.glob("*.safetensors")))
    return found


def test_a_run_paused_twice_ends_in_the_same_weights_bit_by_bit(
    plan: TrainPlan, method: Method, tmp_path: Path
) -> None:
    straight = replace(plan, method=method)
    broken = replace(straight, work=tmp_path / "other", artifact=tmp_path / "resumed")
    losses = [step.loss for step in run(straight).of(events.StepMetrics)]
    assert min(losses[3:]) < losses[0]
    for stop_after in (2, 5):
        with pytest.raises(Cancelled):
            run(broken, Recorder(stop_after))
    assert run(broken).of(events.AttemptStarted)[0].restored_step == 5
    left, right = weights(straight.artifact), weights(broken.artifact)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("kind", ["full", "dora", "nf4", "prefix", "houlsby"])
def test_splitting_a_batch_changes_nothing_but_rounding(
    plan: TrainPlan, kind: str, tmp_path: Path, packing: bool
) -> None:
    """Not so with an 8-bit base: bitsandbytes takes the outliers of a product from the whole batch."""
    whole = tuned(
        replace(plan, method=METHODS[kind]),
        packing=packing,
        optimizer=OptimizerName.SGD,
        learning_rate=0.5,
        max_steps=3,
    )
    split = replace(whole, artifact=tmp_path / "split", work=tmp_path / "split-work")
    # Packing bounds tokens, not rows: a bound of the longest row makes one or two rows a micro-batch.
    split = tuned(split, packing=packing, micro_batch_size=1, sequence_length=100 if packing else 128)
    run(whole)
    run(split)
    left, right = weights(whole.artifact), weights(split.artifact)
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=1e-5, rtol=0, msg=name)


def example(row: int, length: int) -> Example:
    tokens = (torch.arange(length, dtype=torch.int32) * 7 + row) % 256
    return Example(row, tokens, torch.ones(length, dtype=torch.bool))


def prefixed(plan: TrainPlan, model: Any, tokens: int = 6) -> Any:
    """A model with a prefix that is neither zero nor any text's."""
    chosen = replace(plan, method=PrefixMethod(tokens))
    _, subject = adapt(chosen, model, CPU)
    with torch.no_grad():
        weight = subject.trainable["prompt_encoder.default.embedding.weight"]
        weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    return subject.model.eval()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("window", [None, 24], ids=["whole", "window"])
def test_every_packed_document_sees_the_whole_prefix_and_no_other_document(
    plan: TrainPlan, tiny: Callable[..., Any], kind: str, window: int | None
) -> None:
    """Against peft, one document at a time; also where the model looks back no further than a window."""
    if window:
        kind = "mistral"
    model = prefixed(plan, tiny(kind, **({"sliding_window": window} if window else {})))
    documents = [example(1, 40), example(2, 33), example(3, 9), example(4, 9)]
    batch = collate(documents)
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, batch))
    first = 0
    for document in documents:
        with torch.no_grad():
            alone = model(input_ids=document.tokens[None].long()).logits[0]
        torch.testing.assert_close(packed[first : first + len(document)], alone, atol=1e-5, rtol=0)
        first += len(document)


def test_a_prefix_from_a_text_is_as_if_the_text_stood_before_the_row(plan: TrainPlan) -> None:
    model = load(plan, CPU).eval()
    row = torch.arange(30)[None]
    start = methods.prefix.init_tokens(PrefixMethod(6), models.load_tokenizer(plan.base.folder))
    assert len(start) == 6
    with torch.no_grad():
        whole = model(input_ids=torch.cat([torch.tensor([start]), row], dim=1)).logits[:, 6:]
        _, subject = adapt(replace(plan, method=PrefixMethod(6)), model, CPU)
        behind = subject.model.eval()(input_ids=row).logits
    torch.testing.assert_close(behind, whole, atol=1e-5, rtol=0)


def test_answers_behind_a_prefix_are_those_of_the_model_that_was_trained(plan: TrainPlan) -> None:
    """Prompts of unequal lengths: padding between the prefix and its question would move the question."""
    model = prefixed(plan, load(plan, CPU))
    tokenizer = models.load_tokenizer(plan.base.folder)
    rows = [Row(i, (Message("user", "word " * i), Message("assistant", "x"))) for i in (3, 1, 2)]
    given = evaluate.answers(model, tokenizer, rows, 5, lambda _: None)
    for row, answer in zip(rows, given, strict=True):
        ids = evaluate.prompt_tokens(row, tokenizer)
        for _ in range(5):
            one = Example(1, torch.tensor(ids, dtype=torch.int32), torch.ones(len(ids), dtype=torch.bool))
            with torch.no_grad(), by_document(model):
                states = hidden_states(model, collate([one]))[len(ids) - 1]
            ids.append(int(model.get_output_embeddings()(states).argmax()))
        made = ids[-5:]
        if tokenizer.eos_token_id in made:
            made = made[: made.index(tokenizer.eos_token_id)]
        assert answer == tokenizer.decode(made, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("kind", "server"), [("lora", "peft"), ("nf4", "peft"), ("prefix", "peft"), ("houlsby", "finetree")]
)
def test_an_artifact_is_found_to_load(plan: TrainPlan, kind: str, server: str) -> None:
    run(replace(plan, method=METHODS[kind]))
    (verdict,) = loading.check(plan.artifact, plan.base.folder)
    assert (verdict.server, verdict.loads, verdict.reason) == (server, True, "")


@pytest.mark.parametrize("kind", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_an_adapter_goes_on_its_base_quantised_or_not(plan: TrainPlan, kind: str, quantised: bool) -> None:
    chosen = replace(plan, method=METHODS[kind])
    base_plan = replace(plan, method=METHODS["nf4"]) if quantised else plan
    base = load(base_plan, CPU)
    ids = torch.arange(60)[None] % 256
    with torch.no_grad():
        before = base.eval()(input_ids=ids).logits
        adapted = adapter.apply(base, chosen.method, seed=5)
        assert torch.equal(adapted(input_ids=ids).logits, before), "a new adapter changes nothing"
        for number, tensor in enumerate(adapter.tensors(adapted).values()):
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
        ours = adapted(input_ids=ids).logits
    plan.artifact.mkdir()
    adapter.save(adapted, plan.artifact, chosen.method, base_facts(plan.base))
    assert str(plan.base.folder) not in (plan.artifact / "adapter_config.json").read_text()
    with torch.no_grad():
        again = adapter.load(load(base_plan, CPU), plan.artifact).eval()(input_ids=ids).logits
    torch.testing.assert_close(again, ours, atol=1e-6, rtol=0)
    assert (ours - before).abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "places"), [("pfeiffer", 1), ("houlsby", 2), ("parallel", 1)])
def test_an_adapter_has_2hm_m_and_h_numbers_a_place(plan: TrainPlan, kind: str, places: int) -> None:
    _, subject = adapt(replace(plan, method=METHODS[kind]), load(plan, CPU), CPU)
    assert sum(p.numel() for p in subject.trainable.values()) == 2 * places * (2 * 32 * 8 + 8 + 32)


def test_an_adapter_for_another_base_is_refused(plan: TrainPlan, tiny: Callable[..., Any], tmp_path: Path) -> None:
    run(replace(plan, method=METHODS["houlsby"]))
    with pytest.raises(ModelError, match="vocab_size") as refused:
        adapter.load(tiny("llama", vocab_size=300), plan.artifact)
    assert refused.value.reason == "WRONG_BASE"
    tiny("llama", intermediate_size=64).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="fingerprint") as refused:
        adapter.load(models.load_model(tmp_path / "other", torch.float32, CPU), plan.artifact)
    assert refused.value.reason == "WRONG_BASE"
    (plan.artifact / "adapter.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError) as refused:
        adapter.load(load(plan, CPU), plan.artifact)
    assert refused.value.reason == "ADAPTER_UNREADABLE"


def test_a_prefix_longer_than_the_attention_window_is_refused(plan: TrainPlan, tiny: Callable[..., Any]) -> None:
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=PrefixMethod(24)), tiny("mistral", sliding_window=24), CPU)
    assert (refused.value.reason, refused.value.field) == ("PREFIX_TOO_LONG", "prefix.virtual_tokens")


def dequantised(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that a quantised model computes with, by module name."""
    from peft.utils.integrations import dequantize_module_weight

    return {
        name: dequantize_module_weight(module).clone()
        for name, module in model.named_modules()
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}
    }


@pytest.mark.parametrize("kind", ["lora", "dora", "nf4", "fp4", "qdora", "prefix"])
def test_plain_peft_loads_the_adapter_with_our_logits(plan: TrainPlan, kind: str) -> None:
    """On the base as it is; a 4-bit run is compared on the weights that it trained against, dequantised."""
    from peft import PeftModel, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    chosen = replace(plan, method=METHODS[kind])
    run(chosen)
    text = (plan.artifact / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == "example/tiny"
    assert str(plan.base.folder) not in text
    ours_base = load(chosen, CPU)
    base = AutoModelForCausalLM.from_pretrained(plan.base.folder)
    for name, weight in dequantised(ours_base).items():
        base.get_submodule(name).weight.data.copy_(weight)
    ids = torch.arange(60)[None] % 256
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
    plain = PeftModel.from_pretrained(base, plan.artifact).eval()
    ours, subject = adapt(chosen, ours_base, CPU)
    set_peft_model_state_dict(ours, weights(plan.artifact))
    subject.model.eval()
    with torch.no_grad():
        theirs, own = plain(input_ids=ids).logits, ours(input_ids=ids).logits
    torch.testing.assert_close(theirs, own, atol=1e-5, rtol=0)
    assert (theirs - untrained).abs().max() > 1e-2


def test_a_quantised_base_keeps_its_head_and_embeddings_and_has_all_its_parameters(plan: TrainPlan) -> None:
    plain = models.load_model(plan.base.folder, torch.float32, CPU)
    model = load(replace(plan, method=METHODS["nf4"]), CPU)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert len(dequantised(model)) == 2 * 7
    count = sum(models.parameter_count(p) for p in model.parameters())
    assert count == sum(p.numel() for p in plain.parameters())


def test_evaluating_a_quantised_model_leaves_its_weights_as_they_were(plan: TrainPlan) -> None:
    """A CPU with bfloat16 instructions would pack them for a kernel that has no backward pass."""
    chosen = replace(plan, method=METHODS["nf4"])
    adapted, subject = adapt(chosen, load(chosen, CPU), CPU)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    subject.model.eval()
    with torch.inference_mode():
        subject.model(input_ids=torch.arange(5)[None])
        subject.model(input_ids=torch.arange(1)[None])
    assert all(torch.equal(before[name], p) for name, p in adapted.named_parameters())


def test_bitsandbytes_advice_to_fetch_kernels_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    from finetree_worker import library_log

    heard: list[object] = []
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        library_log.capture().connect(heard.append)
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
        assert not heard
        logger.warning("Something else.")
        assert len(heard) == 1
    finally:
        root.handlers, level = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
