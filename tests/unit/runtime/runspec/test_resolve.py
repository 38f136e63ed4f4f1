# SPDX-License-Identifier: Apache-2.0
"""The shared meaning of a plan: defaults, digest."""

import pytest
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec import resolve
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.defaults import cpu_precision, suggested_sequence_length
from finetree_runtime.runspec.digest import plan_digest, revision_text, settings_digest
from finetree_runtime.runspec.naming import named_bytes, names_of


def lora_spec(**training: float) -> rs.RunSpec:
    spec = rs.RunSpec(model=rs.ModelSource(name="smollm2-135m-instruct"), lora=rs.Lora())
    for name, value in training.items():
        setattr(spec.training, name, value)
    return spec


def test_lora_gets_the_quick_reference_defaults() -> None:
    spec = resolve.resolve_spec(lora_spec()).spec
    assert (spec.lora.rank, spec.lora.alpha, round(spec.lora.dropout, 6)) == (8, 16.0, 0.1)
    assert spec.lora.targets == rs.TARGET_PRESET_ALL_LINEAR
    assert spec.training.packing == rs.PACKING_ON


def test_alpha_follows_a_given_rank() -> None:
    spec = resolve.resolve_spec(rs.RunSpec(lora=rs.Lora(rank=32))).spec
    assert spec.lora.alpha == 64.0


def test_given_values_stay_even_when_they_are_zero() -> None:
    given = lora_spec(weight_decay=0.0, max_grad_norm=0.0, seed=0)
    given.lora.dropout = 0.0
    spec = resolve.resolve_spec(given).spec
    assert (spec.training.weight_decay, spec.training.max_grad_norm, spec.lora.dropout) == (0.0, 0.0, 0.0)


def test_max_steps_is_not_joined_by_epochs() -> None:
    spec = resolve.resolve_spec(lora_spec(max_steps=7)).spec
    assert spec.training.WhichOneof("length") == "max_steps"


def test_request_is_not_changed() -> None:
    given = lora_spec()
    before = given.SerializeToString(deterministic=True)
    resolve.resolve_spec(given)
    assert given.SerializeToString(deterministic=True) == before


def test_every_set_value_has_exactly_one_source() -> None:
    resolved = resolve.resolve_spec(lora_spec(learning_rate=1e-3))
    paths = [source.field_path for source in resolved.sources]
    assert paths == resolve.set_paths(resolved.spec)
    assert len(paths) == len(set(paths))
    by_path = {source.field_path: source for source in resolved.sources}
    assert by_path["training.learning_rate"].rule_id == "request"
    assert by_path["lora.rank"].rule_id == "default.lora.rank"
    assert by_path["lora.rank"].provenance.locator


def test_resolving_twice_changes_nothing() -> None:
    once = resolve.resolve_spec(lora_spec()).spec
    assert resolve.resolve_spec(once).spec == once


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "steps"),
    [(1, 10, 4, 3), (2, 10, 4, 6), (2.5, 8, 4, 5), (0.1, 8, 4, 1), (3, 1, 16, 3)],
)
def test_optimizer_steps_count_the_short_last_batch(epochs: float, examples: int, batch: int, steps: int) -> None:
    assert resolve.optimizer_steps(lora_spec(epochs=epochs, effective_batch_size=batch), examples) == steps


def test_cpu_precision_follows_the_measured_rates() -> None:
    assert cpu_precision(rs.CpuDevice()) == rs.PRECISION_BF16
    slow = rs.CpuDevice(bf16_flops_per_second=1.0e11, fp32_flops_per_second=1.0e11)
    assert cpu_precision(slow) == rs.PRECISION_FP32
    fast = rs.CpuDevice(bf16_flops_per_second=1.3e11, fp32_flops_per_second=1.0e11)
    assert cpu_precision(fast) == rs.PRECISION_BF16


GPU = rs.Hardware(accelerator="rtx-4090")
UNNAMED = rs.Hardware(unknown_accelerator=rs.UnknownAccelerator(marketed_memory_gb=24))
CPU = rs.Hardware(cpu=rs.CpuDevice(cores=2))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (rs.RunSpec(lora=rs.Lora(), hardware=GPU), rs.GRADIENT_CHECKPOINTING_FULL),
        (rs.RunSpec(full=rs.FullFineTuning(), hardware=UNNAMED), rs.GRADIENT_CHECKPOINTING_FULL),
        (rs.RunSpec(prefix=rs.PrefixTuning(), hardware=GPU), rs.GRADIENT_CHECKPOINTING_OFF),
        (rs.RunSpec(lora=rs.Lora(), hardware=CPU), rs.GRADIENT_CHECKPOINTING_OFF),
        (rs.RunSpec(lora=rs.Lora()), rs.GRADIENT_CHECKPOINTING_OFF),
    ],
    ids=["gpu", "unnamed gpu", "prefix", "cpu", "unknown"],
)
def test_activations_are_recomputed_where_memory_is_short(spec, expected) -> None:
    assert resolve.resolve_spec(spec).spec.gradient_checkpointing == expected
    assert combination_problem(resolve.resolve_spec(spec).spec) is None


def test_sequence_length_keeps_99_percent_whole() -> None:
    profile = rs.DatasetProfile(examples=1000)
    for bound, count in ((128, 985), (300, 10), (4000, 5)):
        profile.token_lengths.add(upper_bound=bound, count=count)
    assert suggested_sequence_length(profile) == 320
    assert suggested_sequence_length(rs.DatasetProfile(examples=5)) == 0
    # Of rows of which only the average is known twice that stays whole, and never less than without it.
    averages = ((5 * 3000, 6016), (5 * 1000, 0), (5 * 1025, 2112), (10**15, 0))
    for tokens, length in averages:
        assert suggested_sequence_length(rs.DatasetProfile(examples=5, total_tokens=tokens)) == length
    assert resolve.resolve_spec(lora_spec(), profile=profile).spec.training.sequence_length == 320


def test_digest_changes_with_spec_profile_and_revision_but_not_with_the_pack() -> None:
    spec, profile = resolve.resolve_spec(lora_spec()).spec, rs.DatasetProfile(examples=5)
    revision = ev.Revision(engine=ev.RevisionComponent(id="engine-1", sha256="aa"))
    digest = plan_digest(spec, profile, revision)
    assert digest == plan_digest(spec, profile, revision)
    other = lora_spec(seed=1)
    assert plan_digest(resolve.resolve_spec(other).spec, profile, revision) != digest
    assert plan_digest(spec, rs.DatasetProfile(examples=6), revision) != digest
    assert plan_digest(spec, profile, ev.Revision()) != digest
    with_pack = ev.Revision(engine=revision.engine, pack=ev.RevisionComponent(id="playbook-1"))
    assert plan_digest(spec, profile, with_pack) == digest
    learned = ev.Revision()
    learned.CopyFrom(revision)
    learned.calibration.id = "calibration-1"
    assert plan_digest(spec, profile, learned) == digest


HARDWARE = [
    rs.Hardware(accelerator="rtx-4090", count=2),
    rs.Hardware(accelerator='it\'s "quoted"'),
    rs.Hardware(cpu=rs.CpuDevice(cores=4)),
    rs.Hardware(),
    None,
]


@pytest.mark.parametrize("hardware", HARDWARE, ids=["named", "quoted", "cpu", "empty", "none"])
@pytest.mark.parametrize("dataset", [rs.DatasetSource(name="alpaca"), None], ids=["dataset", "no dataset"])
@pytest.mark.parametrize("name", ["word", "word " * 2000], ids=["short", "long"])
def test_the_digest_of_settings_and_names_is_that_of_the_whole_spec(
    hardware: rs.Hardware | None, dataset: rs.DatasetSource | None, name: str
) -> None:
    spec = rs.RunSpec(model=rs.ModelSource(name="a"), hardware=hardware, dataset=dataset, precision=rs.PRECISION_BF16)
    spec.prefix.init_text = name
    spec.checkpoints.keep = 3
    profile, revision = rs.DatasetProfile(examples=5), ev.Revision(engine=ev.RevisionComponent(id="engine-1"))
    settings = resolve.resolved_settings(spec)

    expected = plan_digest(resolve.named_spec(settings, spec), profile, revision)
    for _ in range(2):  # made, and kept
        assert settings_digest(settings, names_of(spec), profile, revision_text(revision)) == expected


@pytest.mark.parametrize("hardware", HARDWARE, ids=["named", "quoted", "cpu", "empty", "none"])
@pytest.mark.parametrize("dataset", [rs.DatasetSource(name="alpaca"), None], ids=["dataset", "no dataset"])
@pytest.mark.parametrize("name", ["word", "word " * 2000], ids=["short", "long"])
@pytest.mark.parametrize("unknown", [b"", b"\xfa\x7f\x03new"], ids=["known fields", "a field of a later version"])
def test_the_bytes_of_settings_and_names_are_those_of_the_whole_spec(
    hardware: rs.Hardware | None, dataset: rs.DatasetSource | None, name: str, unknown: bytes
) -> None:
    spec = rs.RunSpec(model=rs.ModelSource(name="a"), hardware=hardware, dataset=dataset, precision=rs.PRECISION_BF16)
    spec.prefix.init_text = name
    spec.checkpoints.keep = 3
    spec.MergeFromString(unknown)
    if hardware is not None:
        spec.hardware.MergeFromString(unknown)
    settings = resolve.resolved_settings(spec)

    expected = resolve.named_spec(settings, spec).SerializeToString(deterministic=True)
    for _ in range(2):  # made, and kept
        assert named_bytes(settings, names_of(spec)) == expected


def test_difference_names_the_fields() -> None:
    left, right = lora_spec(seed=1), lora_spec(seed=2)
    right.optimizer = rs.OPTIMIZER_SGD
    assert resolve.difference(left, right) == {
        "optimizer": ("", '"OPTIMIZER_SGD"'),
        "training.seed": ('"1"', '"2"'),
    }
