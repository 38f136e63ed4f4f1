# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import check_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_recommender.estimator.values import Accelerator, Catalog, Model
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import adaptations, build, lossless
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.fields import value_of
from finetree_recommender.rule_pack.pack import builtin_packs
from google.protobuf import json_format

GPU = {"unknown_accelerator": {"marketed_memory_gb": 24}}
EVIDENCE = builtin_packs()["evidence-1"]
MANY = 50_000
"""Rows enough for no rule on short runs to apply."""


def recipe(
    method: Method, parameters: int = 7_000_000_000, examples: int = MANY, **fields: Any
) -> tuple[run_spec_pb2.RunSpec, dict[str, check_pb2.SettingSource]]:
    """The specification of evidence-1's recipe, and its sources by path."""
    known = {"model": {"name": "m"}, "hardware": GPU, "dataset_profile": {"examples": examples}}
    request = json_format.ParseDict(known | fields, recommendation_pb2.RecommendRequest())
    inputs = normalize(request, EVIDENCE, Catalog(models={"m": Model(parameters, 8192)}))
    built = build(EVIDENCE, inputs, method, parameters=parameters)
    return built.spec, {source.field_path: source for source in built.sources}


@pytest.mark.parametrize(
    ("method", "given", "path", "value"),
    [
        (Method.LORA, {}, "lora.targets", method_pb2.TARGET_PRESET_ALL_LINEAR),
        (Method.LORA, {"quality": "QUALITY_NEED_EXPERIMENTAL"}, "lora.rank", 32),
        (
            Method.LORA,
            {"quality": "QUALITY_NEED_EXPERIMENTAL", "task_domain": "TASK_DOMAIN_KNOWLEDGE"},
            "lora.rank",
            128,
        ),
        (Method.LORA, {"task_domain": "TASK_DOMAIN_CODE"}, "lora.rank", 64),
        (Method.LORA, {"task_domain": "TASK_DOMAIN_CODE"}, "lora.alpha", 128),
        (Method.LORA, {"examples": 5000}, "lora.dropout", 0.1),
        (Method.LORA, {}, "lora.dropout", 0.05),
        (Method.LORA, {"examples": 200_000}, "lora.dropout", 0.0),
        (Method.LORA, {"examples": 5000, "parameters": 70_000_000_000}, "lora.dropout", 0.05),
        (Method.LORA, {}, "training.learning_rate", 2e-4),
        (Method.LORA, {"parameters": 1_000_000_000}, "training.learning_rate", 5e-4),
        (Method.LORA, {"parameters": 70_000_000_000}, "training.learning_rate", 1e-4),
        (Method.LORA, {"task_domain": "TASK_DOMAIN_KNOWLEDGE"}, "training.learning_rate", 1e-4),
        (Method.FULL, {}, "training.learning_rate", 2e-5),
        (Method.FULL, {"examples": 999}, "training.learning_rate", 1e-5),
        (Method.FULL, {"parameters": 13_000_000_000}, "training.learning_rate", 1e-5),
        (Method.FULL, {}, "training.effective_batch_size", 32),
        (Method.FULL, {}, "precision", training_pb2.PRECISION_BF16_MIXED),
        (Method.FULL, {"parameters": 135_000_000}, "precision", training_pb2.PRECISION_BF16),
        (Method.FULL, {"hardware": {"cpu": {"cores": 2}}}, "precision", training_pb2.PRECISION_BF16),
        (Method.LORA, {}, "precision", training_pb2.PRECISION_BF16),
        (Method.LORA, {}, "training.effective_batch_size", 16),
        (Method.LORA, {"examples": 200_000}, "training.epochs", 1),
        (Method.LORA, {"examples": 5000}, "training.epochs", 3),
        (Method.LORA, {}, "training.warmup_ratio", 0.03),
        (Method.LORA, {"examples": 3000}, "training.warmup_ratio", 0.1),
        (Method.QLORA, {}, "training.max_grad_norm", 0.3),
        (Method.LORA, {}, "training.max_grad_norm", 1.0),
        (Method.QLORA, {}, "qlora.quantization", method_pb2.QUANTIZATION_NF4),
        (Method.QLORA, {}, "optimizer", training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT),
        (Method.LORA, {}, "optimizer", training_pb2.OPTIMIZER_ADAMW),
        (Method.PREFIX, {}, "training.learning_rate", 5e-3),
        (Method.PREFIX, {}, "prefix.init", method_pb2.PREFIX_INIT_ZERO),
        (Method.ADAPTER, {}, "adapter.bottleneck_size", 256),
        (Method.ADAPTER, {"parameters": 135_000_000}, "adapter.bottleneck_size", 64),
        (Method.ADAPTER, {}, "training.learning_rate", 3e-4),
        (Method.LORA, {}, "training.sequence_length", 2048),
        (Method.LORA, {}, "training.weight_decay", 0.01),
        (Method.LORA, {}, "training.packing", training_pb2.PACKING_ON),
    ],
)
def test_the_evidences_values(method, given, path, value):
    spec, sources = recipe(method, **given)
    assert value_of(spec, path) == pytest.approx(value)
    assert sources[path].provenance.source
    assert sources[path].reason


def test_a_short_run_gets_a_higher_rate_within_the_cap():
    spec, sources = recipe(Method.LORA, examples=30)
    assert spec.training.learning_rate == pytest.approx(3e-4)
    assert sources["training.learning_rate"].rule_id == "recipe.learning_rate.few_steps"


METHODS_BENCHMARK = Path(__file__).parents[5] / "benchmarks/results/worker/methods.json"


@pytest.mark.parametrize("method", [Method.FULL, Method.LORA, Method.QLORA, Method.PREFIX, Method.ADAPTER])
def test_at_135m_the_rates_are_those_that_were_measured(method):
    document = json.loads(METHODS_BENCHMARK.read_text(encoding="utf-8"))
    (chosen,) = {row["learning_rate"] for row in document["summaries"] if row["method"] == method.field}
    for examples in (120, 480, 5000):
        spec, sources = recipe(method, 134_515_008, examples)
        assert spec.training.learning_rate == pytest.approx(chosen)
    assert sources["training.learning_rate"].provenance.source == "benchmarks/results/worker/methods.json"


def test_the_rates_that_were_trained_as_recommended_are_those_recommended_today():
    document = json.loads(METHODS_BENCHMARK.parents[1].joinpath("recommender/recipe_rates.json").read_text("utf-8"))
    cases = {(case["method"], case["variant"]): case for case in document["cases"]}
    pairs = [name for name, variant in cases if variant == "after" and (name, "before") in cases]
    assert {"lora", "full"} <= set(pairs)
    for name in pairs:
        case, before = cases[name, "after"], cases[name, "before"]
        spec, _ = recipe(Method(name.upper()), 134_515_008, document["rows"], hardware={"cpu": {"cores": 2}})
        assert spec.training.learning_rate == pytest.approx(case["learning_rate"])
        assert spec.training.effective_batch_size == case["effective_batch_size"]
        assert case["held_out_loss"] < before["held_out_loss"]


def test_rates_fall_as_models_grow():
    sizes = (135e6, 360e6, 494e6, 1.1e9, 3e9, 7e9, 13e9, 32e9, 70e9)
    for method in Method:
        rates = [recipe(method, int(size))[0].training.learning_rate for size in sizes]
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("method", "parameters", "published"),
    [
        (Method.FULL, 134_515_008, (1e-3,)),
        (Method.FULL, 268_098_176, (5e-5,)),
        (Method.FULL, 361_821_120, (1e-3, 2e-5)),
        (Method.FULL, 1_711_376_384, (3e-4,)),
        (Method.LORA, 494_032_768, (2e-3,)),
        (Method.LORA, 354_823_168, (2e-4,)),
        (Method.FULL, 7_241_732_096, (3e-6,)),
        (Method.FULL, 8_030_261_248, (5e-6, 2e-5)),
        (Method.LORA, 999_885_952, (2e-4,)),
        (Method.LORA, 1_235_814_400, (3e-4, 4.9e-4)),
        (Method.LORA, 1_543_714_304, (2e-3,)),
        (Method.LORA, 8_030_261_248, (2.9e-4, 4.7e-4)),
        (Method.ADAPTER, 109_482_240, (3e-4,)),
        (Method.ADAPTER, 6_738_415_616, (3e-4, 1e-4)),
    ],
)
def test_a_range_holds_the_published_rates_of_its_size(method, parameters, published):
    source = recipe(method, parameters)[1]["training.learning_rate"]
    assert all(source.min <= rate <= source.max for rate in published)


@pytest.mark.parametrize(
    ("examples", "published"), [(500, (8, 16, 32)), (9_209, (64, 8)), (50_000, (8, 256)), (200_000, (16, 64))]
)
def test_a_range_holds_the_published_ranks_for_so_many_rows(examples, published):
    source = recipe(Method.LORA, examples=examples)[1]["lora.rank"]
    assert all(source.min <= rank <= source.max for rank in published)


@pytest.mark.parametrize(("examples", "published"), [(2000, 4), (52_000, 4), (395_000, 5)])
def test_a_range_holds_the_published_epochs_for_so_many_rows(examples, published):
    assert recipe(Method.LORA, examples=examples)[1]["training.epochs"].max >= published


def test_full_fine_tuning_on_few_rows_is_halved_from_half_a_billion_parameters_on():
    for parameters, share in ((134_515_008, 1), (494_032_768, 0.5), (7_000_000_000, 0.5)):
        few, many = (recipe(Method.FULL, parameters, rows)[0].training.learning_rate for rows in (999, 1000))
        assert few == pytest.approx(many * share)


def test_float32_weights_are_given_up_last_and_never_on_a_gpu_without_bfloat16():
    for native, last in ((True, training_pb2.PRECISION_BF16), (False, training_pb2.PRECISION_FP16_MIXED)):
        card = Accelerator(32, native, "card", "Card", 8.0 if native else 7.0)
        catalog = Catalog(accelerators={"card": card}, models={"m": Model(8_000_000_000, 8192)})
        request = recommendation_pb2.RecommendRequest(model={"name": "m"}, hardware={"accelerator": "card"})
        inputs = normalize(request, EVIDENCE, catalog)
        rules = adaptations(EVIDENCE, inputs, Method.FULL)
        specs = [build(EVIDENCE, inputs, Method.FULL, parameters=8_000_000_000, adapted=n).spec for n in range(7)]
        assert specs[4].optimizer == training_pb2.OPTIMIZER_ADAMW_8BIT
        assert specs[5].optimizer == training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT
        assert specs[5].precision == specs[0].precision == (training_pb2.PRECISION_BF16_MIXED if native else last)
        assert specs[-1].precision == last
        assert len(rules) == (6 if native else 5)
        # What is rented has room for float32 weights.
        assert lossless(rules) == rules[:5]


def test_the_share_of_updates_that_rounding_takes_is_the_measured_one():
    document = json.loads(METHODS_BENCHMARK.parents[1].joinpath("recommender/rounding.json").read_text("utf-8"))
    lost = {row["learning_rate"]: row["unmoved_by_the_rate"] for row in document["rates"]}
    _, sources = recipe(Method.FULL)
    assert f"({100 * lost[2e-5]:.0f} percent of SmolLM2-135M's weights at 2e-5)" in sources["precision"].reason
    assert min(lost[rate] for rate in lost if rate <= EVIDENCE.rules.bf16_rounding.value) > 0.8


def test_no_variant_of_lora_is_taken_unasked():
    spec, _ = recipe(Method.LORA, task_domain="TASK_DOMAIN_KNOWLEDGE")
    assert spec.lora.rank == 128
    assert not spec.lora.rank_stabilized


def test_every_rate_lies_inside_its_range():
    for method in Method:
        for parameters in (135e6, 5e8, 1e9, 3e9, 7e9, 13e9, 70e9):
            for examples in (30, 500, 5000, 200_000):
                for task in ("TASK_DOMAIN_UNSPECIFIED", "TASK_DOMAIN_KNOWLEDGE", "TASK_DOMAIN_CODE"):
                    spec, sources = recipe(method, int(parameters), examples, task_domain=task)
                    source = sources["training.learning_rate"]
                    assert source.min <= round(spec.training.learning_rate, 9) <= source.max, source
