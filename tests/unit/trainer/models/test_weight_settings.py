# SPDX-License-Identifier: Apache-2.0
"""A run that starts from weights takes their settings over, and is refused where it contradicts them."""

from pathlib import Path

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_data.weights.adapter import read_adapter
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.models.weight_settings import adopt
from finetree_trainer.models.weights import LocatedWeights
from weight_files import peft_adapter, safetensors

Spec, Lora, Qlora = run_spec_pb2.RunSpec, method_pb2.Lora, method_pb2.Qlora
ADAPTER, MODEL = artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL
LORA = Lora(rank=4, alpha=8, dropout=0.1, targets=method_pb2.TARGET_PRESET_ATTENTION, rank_stabilized=True)
PREFIX = method_pb2.PrefixTuning(virtual_tokens=6, init=method_pb2.PREFIX_INIT_ZERO)
LAYERS = method_pb2.AdapterLayers(bottleneck_size=8, placement=method_pb2.ADAPTER_PLACEMENT_HOULSBY)


def made_by(**method) -> LocatedWeights:  # noqa: ANN003 - a method of RunSpec
    kind = MODEL if "full" in method else ADAPTER
    return LocatedWeights("w", Path("w"), kind, artifact_pb2.ArtifactBase(), "a" * 64, spec=Spec(**method))


def of_peft(folder: Path, **config) -> LocatedWeights:  # noqa: ANN003 - keys of adapter_config.json
    adapter = read_adapter(peft_adapter(folder, **config))
    return LocatedWeights("w", folder, ADAPTER, adapter.base, "a" * 64, adapter=adapter)


def adopted(spec: run_spec_pb2.RunSpec, weights: LocatedWeights) -> run_spec_pb2.RunSpec:
    adopt(spec, weights, "job.train.spec")
    return spec


def refused(spec: run_spec_pb2.RunSpec, weights: LocatedWeights) -> tuple[str, str]:
    """The field and the text of a refusal."""
    with pytest.raises(InvalidArgument) as found:
        adopt(spec, weights, "job.train.spec")
    assert found.value.reason == "WEIGHTS_MISMATCH"
    (violation,) = found.value.violations
    return violation.field_path.removeprefix("job.train.spec."), violation.description


@pytest.mark.parametrize(
    ("asked", "made", "expected"),
    [
        ({}, {"lora": LORA}, {"lora": LORA}),
        ({"lora": Lora()}, {"lora": LORA}, {"lora": LORA}),
        ({"lora": LORA}, {"lora": LORA}, {"lora": LORA}),
        ({"qlora": Qlora()}, {"lora": LORA}, {"qlora": Qlora(lora=LORA)}),
        ({"lora": Lora()}, {"qlora": Qlora(lora=LORA)}, {"lora": LORA}),
        (
            {"qlora": Qlora(double_quantization=True)},
            {"qlora": Qlora(lora=LORA, quantization=method_pb2.QUANTIZATION_FP4, double_quantization=False)},
            {"qlora": Qlora(lora=LORA, quantization=method_pb2.QUANTIZATION_FP4, double_quantization=True)},
        ),
        ({"prefix": method_pb2.PrefixTuning()}, {"prefix": PREFIX}, {"prefix": PREFIX}),
        ({}, {"adapter": LAYERS}, {"adapter": LAYERS}),
        ({}, {"full": method_pb2.FullFineTuning(frozen_layers=2)}, {"full": method_pb2.FullFineTuning()}),
        (
            {"full": method_pb2.FullFineTuning(frozen_layers=1)},
            {"full": method_pb2.FullFineTuning()},
            {"full": method_pb2.FullFineTuning(frozen_layers=1)},
        ),
    ],
)
def test_what_is_unset_is_the_weights_own(asked, made, expected):
    assert adopted(Spec(**asked), made_by(**made)) == Spec(**expected)


def test_what_is_no_matter_of_shape_may_differ():
    spec = adopted(Spec(lora=Lora(dropout=0.3)), made_by(lora=LORA))
    assert (spec.lora.dropout, spec.lora.rank) == (0.3, 4)


def test_paths_that_were_filled_in_are_named():
    spec = Spec(lora=Lora(rank=4, dropout=0.0))
    assert adopt(spec, made_by(lora=LORA), "job.train.spec") == ["lora.alpha", "lora.targets", "lora.rank_stabilized"]


@pytest.mark.parametrize(
    ("asked", "made", "field", "said"),
    [
        ({"lora": Lora(rank=8)}, {"lora": LORA}, "lora.rank", "is 8, and the weights that the run starts from have 4"),
        ({"lora": Lora(alpha=16)}, {"lora": LORA}, "lora.alpha", "16.0"),
        ({"lora": Lora(rank_stabilized=False)}, {"lora": LORA}, "lora.rank_stabilized", "false"),
        ({"lora": Lora(weight_decomposed=True)}, {"lora": LORA}, "lora.weight_decomposed", "is true"),
        ({"lora": Lora(targets=method_pb2.TARGET_PRESET_MLP)}, {"lora": LORA}, "lora.targets", "TARGET_PRESET_MLP"),
        ({"lora": Lora(target_modules=["q_proj"])}, {"lora": LORA}, "lora.target_modules", "TARGET_PRESET_ATTENTION"),
        ({"qlora": Qlora(lora=Lora(rank=8))}, {"qlora": Qlora(lora=LORA)}, "qlora.lora.rank", "have 4"),
        ({"prefix": method_pb2.PrefixTuning(virtual_tokens=7)}, {"prefix": PREFIX}, "prefix.virtual_tokens", "have 6"),
        (
            {"adapter": method_pb2.AdapterLayers(placement=method_pb2.ADAPTER_PLACEMENT_PFEIFFER)},
            {"adapter": LAYERS},
            "adapter.placement",
            "ADAPTER_PLACEMENT_HOULSBY",
        ),
        ({"prefix": PREFIX}, {"lora": LORA}, "prefix", "trained by lora, and go on by lora or qlora"),
        ({"lora": LORA}, {"full": method_pb2.FullFineTuning()}, "lora", "trained by full"),
        ({"full": method_pb2.FullFineTuning()}, {"adapter": LAYERS}, "full", "trained by adapter"),
    ],
)
def test_a_contradiction_is_refused_by_its_field(asked, made, field, said):
    found = refused(Spec(**asked), made_by(**made))
    assert (found[0], said in found[1]) == (field, True)


def test_a_placement_that_is_unset_is_the_default_one():
    layers = method_pb2.AdapterLayers(bottleneck_size=8)
    asked = method_pb2.AdapterLayers(placement=method_pb2.ADAPTER_PLACEMENT_PFEIFFER)
    assert adopted(Spec(adapter=asked), made_by(adapter=layers)).adapter.bottleneck_size == 8


def test_a_plain_peft_adapter_has_its_settings_in_its_configuration(tmp_path):
    weights = of_peft(tmp_path / "a", target_modules=["v_proj", "q_proj"], lora_dropout=0.05, use_dora=True)
    lora = Lora(
        rank=2,
        alpha=4,
        dropout=0.05,
        target_modules=["q_proj", "v_proj"],
        rank_stabilized=False,
        weight_decomposed=True,
    )
    assert adopted(Spec(), weights) == Spec(lora=lora)
    assert adopted(Spec(qlora=Qlora()), weights) == Spec(qlora=Qlora(lora=lora))
    assert adopted(Spec(lora=lora), weights) == Spec(lora=lora)
    field, text = refused(Spec(lora=Lora(targets=method_pb2.TARGET_PRESET_ALL_LINEAR)), weights)
    assert (field, "q_proj, v_proj" in text) == ("lora.targets", True)


@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {"q_proj": 4}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"target_modules": r".*q_proj"},
        {"target_modules": None},
        {"target_modules": [f"layers.{i}.q_proj" for i in range(65)]},
        {"target_modules": [3]},
        {"r": "x"},
        {"r": 0.5},
        {"r": 1_000_000},
        {"lora_alpha": -1},
        {"lora_alpha": float("nan")},
        {"lora_dropout": 1.5},
    ],
)
def test_an_adapter_that_no_spec_describes_is_refused(tmp_path, config):
    field, _ = refused(Spec(lora=Lora()), of_peft(tmp_path / "a", **config))
    assert field == "init_from"


def test_a_prefix_of_peft_and_bottleneck_layers_are_read(tmp_path):
    made = peft_adapter(tmp_path / "p", peft_type="PREFIX_TUNING", num_virtual_tokens=5)
    (made / "adapter_model.safetensors").write_bytes(safetensors({"prompt_embeddings": (5, 24)}))
    prefix = LocatedWeights("w", made, ADAPTER, artifact_pb2.ArtifactBase(), "a" * 64, adapter=read_adapter(made))
    assert adopted(Spec(), prefix) == Spec(prefix=method_pb2.PrefixTuning(virtual_tokens=5))
    projected = of_peft(tmp_path / "q", peft_type="PREFIX_TUNING", num_virtual_tokens=5, prefix_projection=True)
    assert refused(Spec(), projected)[0] == "init_from"
    folder = peft_adapter(tmp_path / "b", format="finetree-bottleneck-1", placement="houlsby", bottleneck_size=8)
    (folder / "adapter.safetensors").write_bytes(safetensors({"layers.0.mlp.down.bias": (8,)}))
    adapter = read_adapter(folder)
    layers = LocatedWeights("w", folder, ADAPTER, adapter.base, "a" * 64, adapter=adapter)
    assert adopted(Spec(), layers) == Spec(adapter=LAYERS)


def test_a_merged_model_has_no_method_but_full():
    merged = LocatedWeights("w", Path("w"), MODEL, artifact_pb2.ArtifactBase(), "a" * 64)
    assert adopted(Spec(), merged).WhichOneof("method") == "full"
