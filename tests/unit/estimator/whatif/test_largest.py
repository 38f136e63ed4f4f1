# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.estimate import fit_of
from finetree_estimator.memory import peak
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.run import Rows
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.largest import Largest, lengthened, search
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KNOWLEDGE = Knowledge(price_book.packaged())
LORA = Lora(8, PRESETS["all-linear"], 0.1)
LENGTHS = [*range(8, 513, 8), *range(576, 131_073, 64)]
MIXED = {"examples": 5000, "token_lengths": [{"upper_bound": 64, "count": 4000}, {"upper_bound": 4096, "count": 1000}]}


def case(spec, profile=None):
    body = {"spec": {"model": {"name": "llama-3.2-1b"}, "hardware": {"accelerator": "t4"}} | spec}
    request = json_format.ParseDict(
        body | ({"dataset_profile": profile} if profile else {}), estimate_pb2.EstimateRunRequest()
    )
    return request, parse_request(request, KNOWLEDGE)


def fits(run) -> bool:
    return fit_of(run)[1].verdict is Verdict.FITS


CASES = [
    case({"lora": {}, "training": {"effective_batch_size": 64}}),
    case({"full": {}, "training": {"effective_batch_size": 64, "micro_batch_size": 1}}),
    case({"qlora": {}, "training": {"effective_batch_size": 64, "sequence_length": 512}}, MIXED),
    case({"prefix": {}, "training": {"effective_batch_size": 64, "sequence_length": 256}}, MIXED),
    case({"adapter": {}, "attention": "ATTENTION_KERNEL_EAGER", "training": {"effective_batch_size": 32}}),
]


@pytest.mark.parametrize(("request_", "parsed"), CASES)
def test_the_sizes_are_those_that_trying_every_one_finds(request_, parsed):
    run = parsed.run
    found = search(parsed)

    rows = [rows for rows in range(1, run.batch + 1) if fits(replace(run, micro_batch=rows))]
    lengths = [length for length in LENGTHS if fits(lengthened(parsed, length))]
    assert found == Largest(max(rows, default=0), max(lengths, default=0))
    assert found.sequence_length > 0


def test_applied_to_the_spec_they_fit_and_the_next_ones_do_not():
    request, parsed = CASES[0]
    found = search(parsed)
    for field, value, more in (
        ("micro_batch_size", found.micro_batch, 1),
        ("sequence_length", found.sequence_length, 64),
    ):
        for size, inside in ((value, True), (value + more, False)):
            changed = estimate_pb2.EstimateRunRequest()
            changed.CopyFrom(request)
            setattr(changed.spec.training, field, size)
            assert fits(parse_request(changed, KNOWLEDGE).run) is inside


def test_a_micro_batch_is_at_most_the_share_of_a_batch_that_was_asked_for():
    model = {"model": {"name": "smollm2-135m-instruct"}, "hardware": {"accelerator": "a100-80gb", "count": 2}}
    short = {"sequence_length": 64}
    named = case(model | {"lora": {}, "training": short | {"effective_batch_size": 24}})
    left_open = case(model | {"lora": {}, "training": short}, {"examples": 100, "total_tokens": 6400})

    assert search(named[1]).micro_batch == 12
    assert search(left_open[1]).micro_batch == 50


@pytest.mark.parametrize("profile", [{"examples": 500}, {"examples": 500, "total_tokens": 1000}, MIXED], ids=str)
def test_held_out_rows_that_are_answered_on_a_cpu_grow_with_the_others(profile):
    """Forty questions with their caches at once are the peak there, not a step of four rows."""
    spec = {"prefix": {}, "hardware": {"cpu": {"cores": 8, "memory_bytes": 64 << 30}}}
    looks = {"split_fraction": 0.1, "metrics": ["METRIC_EXACT_MATCH"], "before_training": True}
    request, parsed = case(spec | {"training": {"sequence_length": 160}, "evaluation": looks}, profile)
    request.spec.training.sequence_length = search(parsed).sequence_length

    assert request.spec.training.sequence_length > 160
    assert fits(parse_request(request, KNOWLEDGE).run)


def test_what_is_proposed_can_be_asked_for_however_many_devices_there_are():
    hardware = {"model": {"name": "smollm2-135m-instruct"}, "hardware": {"accelerator": "b300", "count": 4096}}
    _request, parsed = case(hardware | {"lora": {}, "training": {"sequence_length": 8}}, {"examples": 10**9})
    found = search(parsed)

    assert found.micro_batch == 1_048_576 // 4096


def test_a_batch_that_devices_share_unevenly_is_one_micro_batch_of_each():
    """17 rows on 3 devices are 6, 6 and 5: no gradients of an earlier micro-batch wait, and what fits is told."""
    hardware = {"model": {"name": "tinyllama-1.1b"}, "hardware": {"accelerator": "a16", "count": 3}}
    training = {"effective_batch_size": 17, "sequence_length": 128}
    request, parsed = case(hardware | {"full": {}, "training": training, "optimizer_in_backward": True})
    found = search(parsed)
    request.spec.training.micro_batch_size = found.micro_batch

    assert found.micro_batch == 6
    assert fits(parse_request(request, KNOWLEDGE).run)


def test_rows_are_never_longer_than_the_model():
    _request, parsed = case({"model": {"name": "phi-1.5"}, "lora": {}, "hardware": {"accelerator": "a100-80gb"}})

    assert search(parsed).sequence_length == 2048


def test_where_the_smallest_does_not_fit_nothing_does():
    _request, parsed = case({"model": {"name": "llama-3-70b"}, "lora": {}})

    assert search(parsed) == Largest(0, 0)


def test_of_a_device_of_unknown_memory_nothing_is_said():
    _request, parsed = case({"lora": {}, "hardware": {"cpu": {"cores": 4}}})

    assert search(parsed) is None


@settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    settings_=st.fixed_dictionaries(
        {
            "method": st.sampled_from([Full(), LORA, Qlora.of(LORA), Prefix(20), Adapter(64)]),
            "packing": st.booleans(),
            "checkpointing": st.booleans(),
            "eager_attention": st.booleans(),
            "rows": st.sampled_from(
                [None, Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)]
            ),
        }
    ),
    rows=st.tuples(st.integers(1, 63), st.integers(1, 63)),
    lengths=st.tuples(st.integers(8, 8192), st.integers(8, 8192)),
)
def test_memory_never_falls_as_a_part_of_a_batch_and_rows_grow(make_run, settings_, rows, lengths):
    run = make_run(batch=64, **settings_)
    small = replace(run, micro_batch=min(rows), sequence_length=min(lengths))
    peaks = [
        peak.estimate(larger).device.high * (1 + 1e-12)
        for larger in (replace(small, micro_batch=max(rows)), replace(small, sequence_length=max(lengths)))
    ]

    assert peak.estimate(small).device.high <= min(peaks)
