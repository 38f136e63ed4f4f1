# SPDX-License-Identifier: Apache-2.0
"""What holds for every method: the loss falls, a resume is bit-equal, peft loads it."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2, event_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_worker.errors import Cancelled, PlanError
from finetree_worker.methods.full import Full
from finetree_worker.models import load as base_models
from finetree_worker.plan import Method, OptimizerName, Plan
from finetree_worker.training.run import adapt, load
from torch import nn
from worker_harness import METHODS, Recorder, loop_of, pausing, run, scripted, tuned, weights

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]


CPU = torch.device("cpu")


@pytest.fixture(params=METHODS.values(), ids=METHODS.keys())
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


def test_a_run_paused_twice_ends_in_the_same_weights_bit_by_bit(plan: Plan, method: Method, tmp_path: Path) -> None:
    straight = replace(plan, method=method)
    broken = replace(straight, work=tmp_path / "other", artifact=tmp_path / "resumed")
    losses = [step.loss for step in run(straight).of(event_pb2.StepMetrics)]
    assert min(losses[3:]) < losses[0]
    for stop_after in (2, 5):
        with pytest.raises(Cancelled):
            run(broken, pausing(stop_after))
    assert run(broken).of(event_pb2.AttemptStarted)[0].restored_step == 5
    left, right = weights(straight.artifact), weights(broken.artifact)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


TRAINED = {
    "full": "",
    "full-frozen": r"layers\.1\.|^model\.norm\.",
    "lora": r"\.lora_[AB]\.",
    "dora": r"\.lora_(A|B|magnitude_vector)\.",
    "nf4": r"\.lora_[AB]\.",
    "int8": r"\.lora_[AB]\.",
    "prefix": r"^prompt_encoder\.",
    "houlsby": r"\.bottleneck_(attention|mlp)\.",
}
"""What each method trains, by the names of its parameters: all of these and nothing else."""


@pytest.mark.parametrize(
    ("kind", "checkpointing"), [(kind, on) for kind in TRAINED for on in (False, True) if not (kind == "prefix" and on)]
)
def test_two_steps_change_every_tensor_that_is_trained_and_no_other(plan: Plan, kind: str, checkpointing: bool) -> None:
    """Checkpointing of layers whose input needs no gradient leaves adapters without one, and says nothing."""
    chosen = tuned(replace(plan, method=METHODS[kind]), gradient_checkpointing=checkpointing, max_steps=2)
    loop = loop_of(chosen)
    before = {name: p.detach().clone() for name, p in loop.adapted.named_parameters()}
    calls: Counter[str] = Counter()
    model = loop.subject.model
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.update(["batch"]))
    model.get_decoder().layers[1].mlp.register_forward_pre_hook(lambda *_: calls.update(["layer"]))
    loop.run(scripted([]))
    assert calls["layer"] == calls["batch"] * (2 if checkpointing else 1), "a checkpointed layer is run again"
    changed = {name for name, p in loop.adapted.named_parameters() if not torch.equal(before[name], p)}
    assert changed == {name for name in before if re.search(TRAINED[kind], name)}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("kind", ["full", "dora", "nf4", "prefix", "houlsby"])
def test_splitting_a_batch_changes_nothing_but_rounding(plan: Plan, kind: str, tmp_path: Path, packing: bool) -> None:
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


@pytest.mark.parametrize(
    ("kind", "server", "artifact", "peft_type"),
    [
        ("full", serving_pb2.SERVING_TARGET_TRANSFORMERS, artifact_pb2.ARTIFACT_KIND_MODEL, ""),
        ("lora", serving_pb2.SERVING_TARGET_TRANSFORMERS, artifact_pb2.ARTIFACT_KIND_ADAPTER, "LORA"),
        ("nf4", serving_pb2.SERVING_TARGET_TRANSFORMERS, artifact_pb2.ARTIFACT_KIND_ADAPTER, "LORA"),
        ("prefix", serving_pb2.SERVING_TARGET_TRANSFORMERS, artifact_pb2.ARTIFACT_KIND_ADAPTER, "PREFIX_TUNING"),
        ("houlsby", serving_pb2.SERVING_TARGET_FINETREE, artifact_pb2.ARTIFACT_KIND_ADAPTER, ""),
    ],
)
def test_an_artifact_says_what_it_is_and_who_loads_it(
    plan: Plan, kind: str, server: int, artifact: int, peft_type: str
) -> None:
    (ready,) = run(replace(plan, method=METHODS[kind], job="projects/p/jobs/j")).of(event_pb2.ArtifactReady)
    assert (ready.artifact.name, ready.artifact.kind) == ("projects/p/jobs/j/artifacts/artifact", artifact)
    assert (ready.artifact.peft_type, ready.artifact.base.hub_id) == (peft_type, "example/tiny")
    (verdict,) = ready.artifact.compat
    assert (verdict.server, verdict.loads, verdict.reason) == (server, True, "")


def dequantised(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that a quantised model computes with, by module name."""
    from peft.utils.integrations import dequantize_module_weight

    return {
        name: dequantize_module_weight(module).clone()
        for name, module in model.named_modules()
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}
    }


@pytest.mark.parametrize("kind", ["lora", "dora", "nf4", "fp4", "qdora", "prefix"])
def test_plain_peft_loads_the_adapter_with_our_logits(plan: Plan, kind: str) -> None:
    """On the base as it is; a 4-bit run is compared on the weights that it trained against, dequantised."""
    from peft import PeftModel, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    chosen = replace(plan, method=METHODS[kind])
    run(chosen)
    text = (plan.artifact / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == "example/tiny"
    assert str(plan.base.folder) not in text
    if kind != "prefix":
        named = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
        assert json.loads(text)["target_modules"] == named
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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
@pytest.mark.parametrize(("kind", "mapped"), [("nf4", False), ("int8", False), ("lora", True)])
def test_a_quantised_base_does_not_keep_its_file_in_memory(plan: Plan, tmp_path: Path, kind: str, mapped: bool) -> None:
    """One tensor that is a view of the file would keep all of the unpacked weights beside the packed ones."""
    # Its own copy: models of other tests may not have been collected yet.
    own = Path(shutil.copytree(plan.base.folder, tmp_path / "base"))
    model = load(replace(plan, base=replace(plan.base, folder=own), method=METHODS[kind]), CPU)

    assert all(parameter.is_cpu for parameter in model.parameters())
    assert (str(own / "model.safetensors") in Path("/proc/self/maps").read_text()) is mapped


@pytest.mark.parametrize(("dtype", "way"), [(torch.float32, "mmap"), (torch.bfloat16, "pread")])
def test_weights_that_are_converted_are_read_without_a_mapping(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, way: str
) -> None:
    """The file's own type would be in memory whole beside the other one until all is read."""
    ways, opened = [], base_models.modeling_utils.safe_open  # type: ignore[attr-defined]  # transformers does not export it

    def noted(*arguments: object, backend: str, **more: object) -> object:
        ways.append(backend)
        return opened(*arguments, backend=backend, **more)

    monkeypatch.setattr(base_models.modeling_utils, "safe_open", noted)
    base_models.load_model(plan.base.folder, dtype, device=CPU)

    assert ways == [way]
    assert base_models.modeling_utils.safe_open is noted  # type: ignore[attr-defined]


def test_a_quantised_base_keeps_its_head_and_embeddings_and_has_all_its_parameters(plan: Plan) -> None:
    plain = base_models.load_model(plan.base.folder, torch.float32, device=CPU)
    model = load(replace(plan, method=METHODS["nf4"]), CPU)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert len(dequantised(model)) == 2 * 7
    count = sum(base_models.parameter_count(p) for p in model.parameters())
    assert count == sum(p.numel() for p in plain.parameters())


def test_evaluating_a_quantised_model_leaves_its_weights_as_they_were(plan: Plan) -> None:
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

    from finetree_worker.process import log_capture

    recorder = Recorder()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        log_capture.capture().connect(recorder)
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
        assert not recorder.events
        logger.warning("Something else.")
        assert recorder.messages == ["Something else."]
    finally:
        root.handlers, level = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)


def test_as_many_frozen_layers_as_there_are_leave_nothing_to_train(plan: Plan) -> None:
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=Full(frozen_layers=2)), load(plan, CPU), CPU)
    assert (refused.value.reason, refused.value.field) == ("NOTHING_TO_TRAIN", "full.frozen_layers")
    assert "at most 1 layers" in refused.value.remedy
