# SPDX-License-Identifier: Apache-2.0
"""What holds for every method: the loss falls, a resume is bit-equal, peft loads it."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2, event_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_worker.errors import Cancelled
from finetree_worker.plan import Checkpointing, OptimizerName, Plan
from finetree_worker.training.run import adapt, load
from worker_harness import METHODS, dequantized, loop_of, pausing, run, scripted, tuned, weights

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]


CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["full", "lora", "qdora", "prefix", "pfeiffer"])
def test_a_run_paused_twice_ends_in_the_same_weights_bit_by_bit(plan: Plan, kind: str, tmp_path: Path) -> None:
    """Of each kind of trained weights one; settings that change only what is computed have no state of their own."""
    straight = replace(plan, method=METHODS[kind])
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
    ("kind", "checkpointing"),
    [
        *((kind, Checkpointing.OFF) for kind in TRAINED),
        *((kind, Checkpointing.FULL) for kind in TRAINED if kind != "prefix"),
    ],
)
def test_two_steps_change_every_tensor_that_is_trained_and_no_other(
    plan: Plan, kind: str, checkpointing: Checkpointing
) -> None:
    """Checkpointing of layers whose input needs no gradient leaves adapters without one, and says nothing."""
    chosen = tuned(replace(plan, method=METHODS[kind]), gradient_checkpointing=checkpointing, max_steps=2)
    loop = loop_of(chosen)
    before = {name: p.detach().clone() for name, p in loop.adapted.named_parameters()}
    calls: Counter[str] = Counter()
    model = loop.subject.model
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.update(["batch"]))
    model.get_decoder().layers[1].mlp.register_forward_pre_hook(lambda *_: calls.update(["layer"]))
    loop.run(scripted([]))
    assert calls["layer"] == calls["batch"] * (2 if checkpointing is Checkpointing.FULL else 1), (
        "a checkpointed layer is run again"
    )
    changed = {name for name, p in loop.adapted.named_parameters() if not torch.equal(before[name], p)}
    assert changed == {name for name in before if re.search(TRAINED[kind], name)}


@pytest.mark.parametrize("kind", ["full", "qdora", "prefix", "houlsby"])
def test_splitting_a_batch_changes_nothing_but_rounding(plan: Plan, kind: str, tmp_path: Path) -> None:
    """Not so with an 8-bit base: bitsandbytes takes the outliers of a product from the whole batch."""
    whole = tuned(
        replace(plan, method=METHODS[kind]),
        optimizer=OptimizerName.SGD,
        learning_rate=0.5,
        max_steps=3,
    )
    split = replace(whole, artifact=tmp_path / "split", work=tmp_path / "split-work")
    # Packing bounds tokens, not rows: a bound of the longest row makes one or two rows a micro-batch.
    split = tuned(split, micro_batch_size=1, sequence_length=100)
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


@pytest.mark.parametrize("kind", ["lora", "dora", "nf4", "fp4", "qdora", "prefix"])
def test_plain_peft_loads_the_adapter_with_our_logits(plan: Plan, kind: str) -> None:
    """On the base as it is; a 4-bit run is compared on the weights that it trained against, dequantized."""
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
    for name, weight in dequantized(ours_base).items():
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
