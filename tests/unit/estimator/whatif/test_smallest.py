# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_estimator.catalog import prices
from finetree_estimator.catalog.accelerators import accelerator, accelerators
from finetree_estimator.estimate import fit_of
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.smallest import COUNTS, search, sharding_of
from finetree_runtime.errors import DomainError
from google.protobuf import json_format

KNOWLEDGE = Knowledge(prices.packaged())


def case(name, method="lora", **more: object):
    spec = {"model": {"name": name}, method: {}, "hardware": {"accelerator": "t4"}} | more
    request = json_format.ParseDict({"spec": spec, "dataset_profile": {"examples": 1000}}, pb.EstimateRunRequest())
    return request, parse_request(request, KNOWLEDGE)


def on(request, name, count):
    """Memory and fit of the run on other hardware, as the whole estimate has them; None where it is refused."""
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.spec.ClearField("ownership")
    changed.spec.hardware.CopyFrom(rs.Hardware(accelerator=name, count=count, sharding=sharding_of(count)))
    try:
        return fit_of(parse_request(changed, KNOWLEDGE).run)
    except DomainError:
        return None


def classes_that_fit(request, count):
    """Memory classes, in GB as sold, of which so many devices do: every accelerator is tried."""
    tried = ((entry.marketed_gb, on(request, entry.name, count)) for entry in accelerators())
    return sorted(size for size, found in tried if found is not None and found[1].verdict is Verdict.FITS)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("smollm2-135m-instruct", "lora"),
        ("llama-3.2-1b", "full"),
        ("llama-3.1-8b", "qlora"),
        ("llama-3.1-8b", "adapter"),
        ("qwen2.5-14b", "full"),
        ("llama-3-70b", "qlora"),
    ],
)
def test_no_smaller_hardware_of_the_catalogue_does(model, method):
    request, parsed = case(model, method)
    options = {option.count: option for option in search(request, parsed, KNOWLEDGE)}

    smallest_so_far = float("inf")
    for count in COUNTS:
        fitting = [size for size in classes_that_fit(request, count) if size < smallest_so_far]
        assert (count in options) is bool(fitting)
        if fitting:
            smallest_so_far = fitting[0]
            assert accelerator(options[count].accelerator).marketed_gb == fitting[0]


def test_an_option_says_what_an_estimate_on_it_says():
    request, parsed = case("llama-3.1-8b", "qlora")
    options = search(request, parsed, KNOWLEDGE)

    assert options
    for option in options:
        peaks, fit = on(request, option.accelerator, option.count)
        assert (option.peak, option.verdict) == (peaks.device, fit.verdict)
        assert option.usable_bytes - round(option.peak.expected) == fit.headroom_bytes


def test_of_a_memory_class_the_cheapest_for_its_speed_is_named():
    most = 0
    for model in ("smollm2-135m-instruct", "llama-3.2-1b", "llama-3.1-8b", "qwen2.5-14b"):
        request, parsed = case(model, "qlora", ownership={"rented": {"price_id": "modal/t4/2025-02-10"}})
        for option in search(request, parsed, KNOWLEDGE):
            size = accelerator(option.accelerator).marketed_gb
            found = {e.name: on(request, e.name, option.count) for e in accelerators() if e.marketed_gb == size}
            fitting = [name for name, one in found.items() if one is not None and one[1].verdict is Verdict.FITS]
            assert price_for_speed(option.accelerator) == min(map(price_for_speed, fitting))
            most = max(most, len(fitting))

    assert most > 1


def price_for_speed(name):
    return KNOWLEDGE.prices.typical(name) / accelerator(name).training_flops or float("inf")


def test_a_run_on_a_cpu_is_not_sent_to_an_accelerator():
    request, parsed = case("llama-3.2-1b", hardware={"cpu": {"cores": 4, "memory_bytes": 8 << 30}})

    assert search(request, parsed, KNOWLEDGE) == []


def test_where_nothing_is_large_enough_there_is_no_option():
    shape = {"hidden_size": 65_536, "layers": 500, "intermediate_size": 262_144, "attention_heads": 512}
    request, parsed = case("", "full", model={"shape": shape | {"vocab_size": 128_000}})

    assert search(request, parsed, KNOWLEDGE) == []
