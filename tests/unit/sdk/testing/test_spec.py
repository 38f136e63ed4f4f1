# SPDX-License-Identifier: Apache-2.0
"""The fake suite fills in, refuses and digests specs as the services do, and knows what their catalog knows."""

import finetree
import pytest
from finetree.testing import spec as fake
from finetree.testing.catalog import ACCELERATORS, MODELS, REVISION, find_model
from finetree_api.types.v1 import model_pb2, run_spec_pb2, training_data_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.catalog.models import models
from finetree_estimator.messages.catalog import accelerator_message, model_message
from finetree_estimator.spec.resolve import Knowledge, read_model
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec import conflicts, digest, resolve
from google.protobuf import json_format

SPECS = [
    {},
    {"lora": {}},
    {"lora": {"rank": 32, "target_modules": ["q_proj"]}, "hardware": {"accelerator": "rtx-4090"}},
    {"lora": {"include_experts": True}, "hardware": {"cpu": {}}},
    {"lora": {"include_experts": True, "dropout": 0.1}},
    {"lora": {"include_experts": True, "weight_decomposed": True}},
    {"qlora": {"lora": {"rank": 4}}, "hardware": {"accelerator": "h100", "count": 4}},
    {"full": {}, "hardware": {"accelerator": "h100", "count": 3, "nodes": 2}},
    {"prefix": {}, "hardware": {"accelerator": "h100"}},
    {"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"},
    {"adapter": {}, "training": {"max_steps": 7, "effective_batch_size": 2}},
    {"adapter": {}, "training": {"effective_batch_size": 2, "micro_batch_size": 3}},
    {"lora": {}, "training": {"sequence_length": 1000}},
    {"lora": {}, "evaluation": {"split_fraction": 0.1, "metrics": ["METRIC_EXACT_MATCH"]}},
    {"lora": {}, "evaluation": {"split_fraction": 0.1, "samples": 3}},
    {"lora": {}, "dataset": {"profile": {"examples": 9, "total_tokens": 90_000}}},
]
PROFILES = [
    None,
    {"examples": 100},
    {"examples": 100, "token_lengths": [{"upper_bound": 40, "count": 98}, {"upper_bound": 900, "count": 2}]},
]


@pytest.mark.parametrize("told", SPECS, ids=str)
def test_defaults_conflicts_steps_and_digests_are_those_of_the_services(told):
    spec = json_format.ParseDict(told, run_spec_pb2.RunSpec())
    for known in PROFILES:
        profile = json_format.ParseDict(known, training_data_pb2.DatasetProfile()) if known else None
        for positions in (0, 512, 8192):
            ours, sources = fake.resolve(spec, profile, positions=positions)
            theirs = resolve.resolve_spec(spec, profile=profile, positions=positions)
            assert ours == theirs.spec
            assert [each.rule_id for each in sources] == [each.rule_id for each in theirs.sources]
            found = fake.conflict(ours, positions)
            wrong = conflicts.combination_problem(ours) or conflicts.sequence_problem(ours, positions)
            assert (found.reason, found.field) == (wrong.reason, wrong.field_path) if wrong else found is None
        assert fake.make_plan(ours, profile, REVISION) == digest.make_plan(ours, profile, REVISION)
        assert fake.optimizer_steps(ours, 1000) == resolve.optimizer_steps(ours, 1000)
    other = run_spec_pb2.RunSpec(lora={"rank": 1})
    plans = [run_spec_pb2.Plan(spec=each, revision=REVISION) for each in (spec, other)]
    assert fake.differences(*plans) == [tuple(each) for each in digest.plan_differences(*plans)]


INVENTED = {"tiny", "small", "large"}


def test_the_real_models_and_cards_are_those_of_the_estimators_catalog():
    theirs = {entry.name: model_message(entry) for entry in models()}
    assert len(MODELS.keys() - INVENTED) >= 8
    for name in MODELS.keys() - INVENTED:
        ours, real = MODELS[name], theirs[name]
        assert (ours.hub_id, ours.family, ours.parameters) == (real.hub_id, real.family, real.parameters)
        for field in ("hidden_size", "layers", "kv_heads", "vocab_size", "max_position_embeddings"):
            assert getattr(ours.shape, field) == getattr(real.shape, field), (name, field)
    book = price_book.packaged()
    cards = {entry.name: accelerator_message(entry, book) for entry in accelerators()}
    for name, card in ACCELERATORS.items():
        ours, real = [
            {field.name: value for field, value in each.ListFields() if field.name in OF_A_CARD}
            for each in (card, cards[name])
        ]
        assert ours == real, name


OF_A_CARD = {
    "name",
    "display_name",
    "compute_capability",
    "marketed_memory_gb",
    "usable_bytes",
    "dense_flops_per_second",
    "native_bf16",
    "native_int8",
    "watts",
    "unsupported",
}
FULL = {"kv_heads": 2, "head_dim": 32}
LATENT = {"key_value_rank": 16, "plain_head_dim": 16, "rotary_head_dim": 8, "value_head_dim": 16}
LINEAR = {"layers": 1, "key_heads": 2, "key_head_dim": 16, "value_heads": 4, "value_head_dim": 16}
SHAPE = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 100}


@pytest.mark.parametrize(
    "part",
    [
        {"attention_heads": 65, "head_dim": 8},
        {"kv_heads": 3},
        {"max_position_embeddings": 7},
        {"active_experts": 1},
        {"experts": 2, "active_experts": 3},
        {"experts": 2},
        {"experts": 2, "active_experts": 1, "dense_layers": 2},
        {"attention_heads": 3},
        {"dense_layers": 1},
        {"full_attention_layers": 3},
        {"full_attention_layers": 1},
        {"linear_attention": LINEAR | {"layers": 2}},
        {"linear_attention": LINEAR | {"value_heads": 3}},
        {"linear_attention": LINEAR, "sliding_window": 64},
        {"full_attention": FULL},
        {"full_attention": FULL | {"kv_heads": 3}, "sliding_window": 64, "full_attention_layers": 1},
        {"kv_shared_layers": 2},
        {"wide_shared_mlp": True},
        {"convolution": {"layers": 2}},
        {"convolution": {"layers": 1}, "linear_attention": LINEAR},
        {"convolution": {"layers": 1}, "sliding_window": 64},
        {"latent_attention": LATENT, "kv_heads": 1},
        {"latent_attention": LATENT, "head_dim": 64},
        {"latent_attention": LATENT, "convolution": {"layers": 1}},
    ],
    ids=str,
)
def test_a_shape_that_contradicts_itself_is_refused_as_the_estimator_does(part):
    source = json_format.ParseDict({"shape": SHAPE | part}, model_pb2.ModelSource())
    with pytest.raises(finetree.InvalidArgument) as ours:
        find_model(source, "spec.model")
    with pytest.raises(InvalidArgument) as theirs:
        read_model(source, Knowledge(price_book.packaged()))
    assert [each.field for each in ours.value.violations] == [each[0] for each in theirs.value.violations]
