# SPDX-License-Identifier: Apache-2.0
from itertools import product
from typing import Any

import pytest
from finetree.capabilities import UNDIVIDED_OPTIMIZERS, unsupported
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import method_pb2, training_pb2
from finetree_recommender.method import Method
from finetree_recommender.recipe import build
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.paths import set_paths
from finetree_runtime.runspec.resolve import optimizer_steps, resolve_spec

CPU = {"cpu": {"cores": 2, "memory_bytes": 16 * 2**30}}


def rates(bf16: float) -> dict[str, float]:
    return {"bf16_flops_per_second": bf16, "fp32_flops_per_second": 1e12}


GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}


def profile(examples: int, *lengths: tuple[int, int]) -> dict[str, Any]:
    """A dataset profile; lengths are (upper bound, count)."""
    return {"examples": examples, "token_lengths": [{"upper_bound": bound, "count": count} for bound, count in lengths]}


def spec_of(pack, inputs, method=Method.LORA, parameters=135_000_000, adapted=0):
    return build.build(pack, inputs, method, parameters=parameters, adapted=adapted).spec


def test_the_playbooks_lora_default(pack, read):
    lora = spec_of(pack, read(hardware=GPU24)).lora
    assert (lora.rank, lora.alpha, round(lora.dropout, 6)) == (8, 16, 0.1)
    assert lora.targets == method_pb2.TARGET_PRESET_ALL_LINEAR


@pytest.mark.parametrize(
    ("parameters", "lora", "full"),
    [
        (135e6, 5e-4, 5e-5), (1.24e9, 5e-4, 5e-5), (1.5e9, 3e-4, 3e-5), (3.2e9, 3e-4, 3e-5), (8e9, 2e-4, 2e-5),
        (13e9, 2e-4, 1e-5), (32e9, 1e-4, 1e-5), (70e9, 1e-4, 1e-5), (None, 2e-4, 2e-5),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_the_size_of_the_model(pack, read, parameters, lora, full):
    inputs = read(hardware=GPU24, dataset_profile=profile(5000))
    for method, rate in ((Method.LORA, lora), (Method.QLORA, lora), (Method.FULL, full)):
        assert spec_of(pack, inputs, method, parameters).training.learning_rate == pytest.approx(rate)
    assert spec_of(pack, inputs, Method.PREFIX, parameters).training.learning_rate == pytest.approx(5e-3)
    assert spec_of(pack, inputs, Method.ADAPTER, parameters).training.learning_rate == pytest.approx(1e-4)


def test_a_run_of_few_steps_gets_a_higher_rate_up_to_the_cap(pack, read):
    few = read(hardware=GPU24, dataset_profile=profile(20))
    built = build.build(pack, few, Method.LORA, parameters=8_000_000_000)
    assert optimizer_steps(built.spec, 20) < 100
    assert built.spec.training.learning_rate == pytest.approx(3e-4)
    source = next(item for item in built.sources if item.field_path == "training.learning_rate")
    assert source.rule_id == "recipe.learning_rate.few_steps"
    assert spec_of(pack, few).training.learning_rate == pytest.approx(7.5e-4)


@pytest.mark.parametrize(("examples", "epochs"), [(1, 3), (9999, 3), (10000, 2), (99999, 2), (100000, 1), (10**9, 1)])
def test_epochs_follow_the_number_of_examples(pack, read, examples, epochs):
    assert spec_of(pack, read(dataset_profile=profile(examples))).training.epochs == epochs


@pytest.mark.parametrize(
    ("examples", "batch"), [(100000, 16), (544, 16), (500, 8), (250, 4), (120, 2), (40, 1), (5, 1)]
)
def test_the_batch_shrinks_until_there_are_100_steps(pack, read, examples, batch):
    spec = spec_of(pack, read(dataset_profile=profile(examples)))
    assert spec.training.effective_batch_size == batch
    steps = optimizer_steps(spec, examples)
    assert steps >= 100 or batch == 1
    # No larger batch would have done.
    if batch < 16:
        spec.training.effective_batch_size = 2 * batch
        assert optimizer_steps(spec, examples) < 100


@pytest.mark.parametrize(("examples", "batch"), [(100000, 16), (9999, 4), (1992, 4), (480, 4), (100, 2), (10, 1)])
def test_new_knowledge_from_little_data_gets_a_small_batch(pack, read, examples, batch):
    spec = spec_of(pack, read(dataset_profile=profile(examples), task_domain=recommendation_pb2.TASK_DOMAIN_KNOWLEDGE))
    assert spec.training.effective_batch_size == batch


def test_new_knowledge_from_unknown_data_gets_the_usual_batch(pack, read):
    assert spec_of(pack, read(task_domain=recommendation_pb2.TASK_DOMAIN_KNOWLEDGE)).training.effective_batch_size == 16


def test_full_fine_tuning_starts_from_a_larger_batch(pack, read):
    assert spec_of(pack, read(dataset_profile=profile(50000)), Method.FULL).training.effective_batch_size == 32


@pytest.mark.parametrize(("examples", "warmup"), [(1000, 0.1), (50000, 0.03)])
def test_warm_up_follows_the_number_of_steps(pack, read, examples, warmup):
    assert spec_of(pack, read(dataset_profile=profile(examples))).training.warmup_ratio == pytest.approx(warmup)


@pytest.mark.parametrize(
    ("lengths", "length", "rule"),
    [
        ([(50, 990), (300, 10)], 64, "recipe.sequence_length"),
        ([(50, 980), (300, 20)], 320, "recipe.sequence_length"),
        ([(64, 1000)], 64, "recipe.sequence_length"),
        ([(65, 1000)], 128, "recipe.sequence_length"),
        ([], 2048, "recipe.sequence_length.unknown"),
        ([(100000, 1000)], 8192, "recipe.sequence_length.model"),
    ],
)
def test_sequences_keep_99_percent_of_the_rows_whole(pack, read, lengths, length, rule):
    built = build.build(pack, read(dataset_profile=profile(1000, *lengths)), Method.LORA, parameters=None)
    assert built.spec.training.sequence_length == length
    assert next(s for s in built.sources if s.field_path == "training.sequence_length").rule_id == rule


@pytest.mark.parametrize(
    ("fields", "native", "precision"),
    [
        ({"hardware": GPU24}, None, training_pb2.PRECISION_BF16),
        ({"hardware": {"accelerator": "l4"}}, True, training_pb2.PRECISION_BF16),
        ({"hardware": {"accelerator": "t4"}}, False, training_pb2.PRECISION_FP16_MIXED),
        ({"hardware": CPU}, None, training_pb2.PRECISION_BF16),
        ({"hardware": CPU, "matrix_rates": rates(1.2e12)}, None, training_pb2.PRECISION_BF16),
        ({"hardware": CPU, "matrix_rates": rates(1.1e12)}, None, training_pb2.PRECISION_FP32),
    ],
)
def test_precision_follows_the_hardware(pack, fields, native, precision):
    from finetree_recommender.estimator.values import Accelerator, Catalog
    from finetree_recommender.request.inputs import normalize
    from google.protobuf import json_format

    request = json_format.ParseDict({"model": {"name": "m"}, **fields}, recommendation_pb2.RecommendRequest())
    known = {} if native is None else {fields["hardware"]["accelerator"]: Accelerator(16, native)}
    inputs = normalize(request, pack, Catalog(accelerators=known))
    assert spec_of(pack, inputs).precision == precision


def test_a_cpu_takes_the_whole_batch_at_once(pack, read):
    training = spec_of(pack, read(hardware=CPU, dataset_profile=profile(5000, (512, 5000)))).training
    assert training.micro_batch_size == training.effective_batch_size == 16


@pytest.mark.parametrize(("length", "micro"), [(64, 16), (512, 16), (1024, 8), (2048, 4), (8192, 1)])
def test_a_gpu_takes_up_to_8192_tokens_at_once(pack, read, length, micro):
    inputs = read(hardware=GPU24, dataset_profile=profile(5000, (length, 5000)))
    assert spec_of(pack, inputs).training.micro_batch_size == micro


def test_several_devices_share_the_batch(pack, read):
    inputs = read(hardware=GPU24 | {"count": 8}, dataset_profile=profile(5000, (64, 5000)))
    assert spec_of(pack, inputs).training.micro_batch_size == 2


def test_adaptations_come_in_the_packs_order(pack, read):
    gpu, cpu = read(hardware=GPU24), read(hardware=CPU)
    names = {m: [rule.id for rule in build.adaptations(pack, gpu, m)] for m in Method}
    lossless = ["fit.gradient_checkpointing", "fit.micro_batch_1", "fit.offloaded_inputs"]
    assert names["FULL"] == [*lossless, "fit.optimizer_8bit"]
    assert names["LORA"] == lossless
    assert names["QLORA"] == [*names["LORA"], "fit.rows_1024", "fit.rows_512"]
    assert names["PREFIX"] == ["fit.micro_batch_1"]
    # A CPU has the inputs of layers in the host's memory as they are.
    assert [rule.id for rule in build.adaptations(pack, cpu, Method.FULL)] == lossless[:2]


def test_adaptations_add_up(pack, read):
    inputs = read(hardware=GPU24)
    plain, recomputed, single, offloaded, small = (
        spec_of(pack, inputs, Method.FULL, adapted=count) for count in range(5)
    )
    assert plain.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFF
    assert recomputed.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_FULL
    assert recomputed.training.micro_batch_size == plain.training.micro_batch_size > 1
    assert single.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_FULL
    assert single.training.micro_batch_size == 1
    for spec in (offloaded, small):
        assert spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED
        assert spec.training.micro_batch_size == 1
    assert offloaded.optimizer == training_pb2.OPTIMIZER_ADAMW
    assert small.optimizer == training_pb2.OPTIMIZER_ADAMW_8BIT


@pytest.mark.parametrize(
    ("bound", "whole", "cuts"),
    [
        (300, 4, []),
        (700, 4, [512]),
        (1024, 4, [512]),
        (3000, 4, [2048, 1024, 512]),
        # Rows that are taken one at a time anyway are not made fewer.
        (8192, 3, [4096, 2048, 1024, 512]),
    ],
)
def test_rows_are_cut_last_and_only_where_they_are_longer(pack, read, bound, whole, cuts):
    inputs = read(hardware=GPU24, dataset_profile=profile(500, (bound, 500)))
    count = len(build.adaptations(pack, inputs, Method.QLORA))
    lengths = [spec_of(pack, inputs, Method.QLORA, adapted=n).training.sequence_length for n in range(count + 1)]
    assert lengths[whole:] == cuts
    assert len(set(lengths[:whole])) == 1
    # What is asked at first truncates nothing, and the second question starts at the longest rows of the rules.
    asked = build.questions(pack, inputs, 135_000_000)[Method.QLORA]
    assert len(asked.fallbacks) == whole - 1
    cut = build.cut_questions(pack, inputs, 135_000_000)
    assert [row.spec.training.sequence_length for row in cut.values()] == cuts[:1]
    assert [len(row.fallbacks) for row in cut.values()] == [len(cuts) - 1] * bool(cuts)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("profile_name", ["RECIPE_PROFILE_PLAYBOOK", "RECIPE_PROFILE_EVIDENCE"])
@pytest.mark.parametrize("hardware", [CPU, GPU24])
def test_every_recipe_is_complete_consistent_and_sourced(pack, read, method, profile_name, hardware):
    inputs = read(
        hardware=hardware,
        profile=profile_name,
        dataset_profile=profile(700, (64, 600), (200, 100)),
        evaluation={"split_fraction": 0.1, "metrics": ["METRIC_EXACT_MATCH"], "before_training": True},
        ownership={"owned": {"price_per_kwh": {"currency_code": "USD", "nanos": 300_000_000}}},
    )
    for adapted in range(len(build.adaptations(pack, inputs, method)) + 1):
        built = build.build(pack, inputs, method, parameters=135_000_000, adapted=adapted)
        assert built.spec.WhichOneof("method") == method.field
        assert resolve_spec(built.spec, profile=inputs.profile).spec == built.spec
        assert combination_problem(built.spec) is None
        assert [source.field_path for source in built.sources] == set_paths(built.spec)
        assert all(source.rule_id and source.reason for source in built.sources)
        ruled = [source for source in built.sources if source.rule_id.startswith(("recipe.", "fit."))]
        assert all(source.provenance.source for source in ruled)
        assert built.spec.evaluation.before_training
        assert built.spec.evaluation.split_fraction == pytest.approx(0.1)


def test_numbers_lie_inside_their_stated_range(pack, read):
    from finetree_recommender.rule_pack.fields import value_of

    for method in Method:
        for examples in (10, 100, 5000, 50000, 500000):
            inputs = read(hardware=GPU24, dataset_profile=profile(examples))
            built = build.build(pack, inputs, method, parameters=135_000_000)
            for source in built.sources:
                if source.HasField("min"):
                    value = value_of(built.spec, source.field_path)
                    assert source.min <= round(value, 9) <= source.max, source


@pytest.mark.parametrize(
    ("task", "examples", "rank"),
    [
        ("CHAT", 500, 8), ("CHAT", 5000, 16), ("CHAT", 50000, 32), ("CHAT", 500000, 64),
        ("CODE", 5000, 32), ("MATH", 500000, 128), ("STYLE", 50000, 8), ("KNOWLEDGE", 500, 128),
    ],
)  # fmt: skip
def test_the_evidence_profile_sizes_the_rank(pack, read, task, examples, rank):
    inputs = read(
        profile="RECIPE_PROFILE_EVIDENCE", task_domain=f"TASK_DOMAIN_{task}", dataset_profile=profile(examples)
    )
    lora = spec_of(pack, inputs).lora
    assert (lora.rank, lora.alpha) == (rank, 2 * rank)
    assert not lora.rank_stabilized
    qlora = spec_of(pack, inputs, Method.QLORA).qlora
    assert qlora.lora.rank == rank
    assert qlora.quantization == method_pb2.QUANTIZATION_NF4
    assert qlora.double_quantization


def test_the_dataset_of_the_request_is_carried_over(pack, read):
    inputs = read(dataset={"path": "train.jsonl"}, dataset_profile=profile(100))
    assert spec_of(pack, inputs).dataset.path == "train.jsonl"
    assert spec_of(pack, read(dataset_profile=profile(100))).dataset.profile.examples == 100
    assert read(dataset={"profile": profile(77)}).examples == 77


def test_what_is_divided_over_devices_has_an_optimizer_that_the_trainer_divides(pack, read):
    evidence = builtin_packs()["evidence-1"]
    divided = {**GPU24, "count": 4, "sharding": "SHARDING_FULL"}
    for rules, method in product((pack, evidence), Method):
        for hardware, whole in ((GPU24, True), (divided, False)):
            inputs = read(hardware=hardware).reread(rules)
            steps = range(len(build.adaptations(rules, inputs, method)) + 1)
            specs = [spec_of(rules, inputs, method, adapted=count) for count in steps]
            kept = {spec.optimizer for spec in specs} & set(UNDIVIDED_OPTIMIZERS)
            assert bool(kept) <= whole, (rules.id, method)
            assert whole or not any(list(unsupported(spec)) for spec in specs), method
    qlora = spec_of(evidence, read(hardware=GPU24).reread(evidence), Method.QLORA)
    assert qlora.optimizer == training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT


def test_where_memory_matters_most_no_activations_are_kept(read):
    """Without it QLoRA, which is taken for its memory, could take twice that of a LoRA that was made to fit."""
    evidence = builtin_packs()["evidence-1"]
    for word, kept in (
        ("MEMORY", training_pb2.GRADIENT_CHECKPOINTING_FULL),
        ("SPEED", training_pb2.GRADIENT_CHECKPOINTING_OFF),
    ):
        inputs = read(hardware=GPU24, priorities=[f"PRIORITY_{word}", "PRIORITY_QUALITY"]).reread(evidence)
        for method in (Method.FULL, Method.LORA, Method.QLORA, Method.ADAPTER):
            assert spec_of(evidence, inputs, method).gradient_checkpointing == kept
