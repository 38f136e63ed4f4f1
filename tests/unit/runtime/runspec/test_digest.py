# SPDX-License-Identifier: Apache-2.0
"""What a plan's digest covers, and that the fields that differ are those that change it."""

import pytest
from finetree_api.types.v1 import evidence_pb2, method_pb2, model_pb2, run_spec_pb2, training_data_pb2
from finetree_runtime.runspec.digest import make_plan, plan_differences, plan_digest
from finetree_runtime.runspec.resolve import resolve_spec


def component(text: str) -> evidence_pb2.RevisionComponent:
    return evidence_pb2.RevisionComponent(id=text, sha256="a" * 64)


def plan(*, seed: int = 0, examples: int = 5, weights: str = "", **revision: str) -> run_spec_pb2.Plan:
    spec = run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="smollm2-135m-instruct"), lora=method_pb2.Lora())
    spec.training.seed = seed
    if weights:
        spec.init_from.path, spec.init_from.sha256 = "adapter", weights * 64
    components = {"engine": "engine-1", "catalog": "catalog-1", "price_book": "prices-1"} | revision
    return make_plan(
        resolve_spec(spec).spec,
        training_data_pb2.DatasetProfile(examples=examples) if examples else None,
        evidence_pb2.Revision(**{name: component(text) for name, text in components.items()}),
    )


def test_a_digest_is_sha256_and_the_same_for_the_same_plan() -> None:
    assert plan().digest.startswith("sha256:")
    assert len(plan().digest) == len("sha256:") + 64
    assert plan().digest == plan().digest == plan_digest(plan().spec, plan().dataset_profile, plan().revision)


@pytest.mark.parametrize(
    ("other", "path"),
    [
        (plan(seed=1), "spec.training.seed"),
        (plan(examples=6), "dataset_profile.examples"),
        (plan(examples=0), "dataset_profile.examples"),
        (plan(engine="engine-2"), "revision.engine.id"),
        (plan(catalog="catalog-2"), "revision.catalog.id"),
        (plan(price_book="prices-2"), "revision.price_book.id"),
    ],
    ids=["setting", "rows", "no profile", "formulas", "models and accelerators", "prices"],
)
def test_what_changes_the_digest_is_named(other, path) -> None:
    assert other.digest != plan().digest
    assert [field.field_path for field in plan_differences(plan(), other)] == [path]


def test_other_weights_under_the_same_name_are_another_plan() -> None:
    first, second = plan(weights="a"), plan(weights="b")
    assert len({plan().digest, first.digest, second.digest}) == 3
    assert [field.field_path for field in plan_differences(first, second)] == ["spec.init_from.sha256"]


@pytest.mark.parametrize("name", ["pack", "calibration"])
def test_rule_pack_and_calibration_are_left_out(name) -> None:
    other = plan(**{name: "other-1"})
    assert other.digest == plan().digest
    assert plan_differences(plan(), other) == []


def test_a_switch_that_is_turned_off_has_the_digest_of_one_left_out() -> None:
    explicit = run_spec_pb2.RunSpec(lora=method_pb2.Lora(weight_decomposed=False), optimizer_in_backward=False)
    explicit.program.compile = False
    revision = evidence_pb2.Revision()
    digests = {
        plan_digest(resolve_spec(spec).spec, None, revision)
        for spec in (explicit, run_spec_pb2.RunSpec(lora=method_pb2.Lora()))
    }
    assert len(digests) == 1
