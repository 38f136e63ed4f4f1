# SPDX-License-Identifier: Apache-2.0
"""Other hardware for a run: the smallest that fits, and offers of the price book."""

from dataclasses import replace

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_data_pb2, training_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.accelerators import accelerator, accelerators
from finetree_estimator.catalog.price_book import PriceBook, Quote, Term
from finetree_estimator.estimate import estimate, fit_of
from finetree_estimator.evidence.corrections import UNCORRECTED
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.parse import ParsedRequest, parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import hardware
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.hardware import COUNTS, sharding_of, smallest
from finetree_runtime.errors import DomainError
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())


def case(name, method="lora", **more: object):
    spec = {"model": {"name": name}, method: {}, "hardware": {"accelerator": "t4"}} | more
    request = json_format.ParseDict(
        {"spec": spec, "dataset_profile": {"examples": 1000}}, estimate_pb2.EstimateRunRequest()
    )
    return request, parse_request(request, KNOWLEDGE)


def on(request, name, count):
    """Memory and fit of the run on other hardware, as the whole estimate has them; None where it is refused."""
    changed = estimate_pb2.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.spec.ClearField("ownership")
    changed.spec.hardware.CopyFrom(hardware_pb2.Hardware(accelerator=name, count=count, sharding=sharding_of(count)))
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
def test_no_smaller_hardware_of_the_catalog_does(model, method):
    request, parsed = case(model, method)
    options = {option.count: option for option in smallest(parsed, KNOWLEDGE)}

    smallest_so_far = float("inf")
    for count in COUNTS:
        fitting = [size for size in classes_that_fit(request, count) if size < smallest_so_far]
        assert (count in options) is bool(fitting)
        if fitting:
            smallest_so_far = fitting[0]
            assert accelerator(options[count].accelerator).marketed_gb == fitting[0]


def test_an_option_says_what_an_estimate_on_it_says():
    request, parsed = case("llama-3.1-8b", "qlora")
    options = smallest(parsed, KNOWLEDGE)

    assert options
    for option in options:
        peaks, fit = on(request, option.accelerator, option.count)
        assert (option.peak, option.verdict) == (peaks.device, fit.verdict)
        assert option.usable_bytes - round(option.peak.expected) == fit.headroom_bytes


def test_of_a_memory_class_the_cheapest_for_its_speed_is_named():
    most = 0
    for model in ("smollm2-135m-instruct", "llama-3.2-1b", "llama-3.1-8b", "qwen2.5-14b"):
        request, parsed = case(model, "qlora", ownership={"rented": {"price_id": "modal/t4/2025-02-10"}})
        for option in smallest(parsed, KNOWLEDGE):
            size = accelerator(option.accelerator).marketed_gb
            found = {e.name: on(request, e.name, option.count) for e in accelerators() if e.marketed_gb == size}
            fitting = [name for name, one in found.items() if one is not None and one[1].verdict is Verdict.FITS]
            assert price_for_speed(option.accelerator) == min(map(price_for_speed, fitting))
            most = max(most, len(fitting))

    assert most > 1


def price_for_speed(name):
    return (KNOWLEDGE.prices.typical(name) or float("inf")) / accelerator(name).training_flops


def test_a_run_on_a_cpu_is_not_sent_to_an_accelerator():
    _request, parsed = case("llama-3.2-1b", hardware={"cpu": {"cores": 4, "memory_bytes": 8 << 30}})

    assert smallest(parsed, KNOWLEDGE) == []


def test_where_nothing_is_large_enough_there_is_no_option():
    shape = {"hidden_size": 65_536, "layers": 500, "intermediate_size": 262_144, "attention_heads": 512}
    _request, parsed = case("", "full", model={"shape": shape | {"vocab_size": 128_000}})

    assert smallest(parsed, KNOWLEDGE) == []


CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=8, memory_bytes=64 << 30))
PROFILE = training_data_pb2.DatasetProfile(examples=5000, total_tokens=1_000_000)


@pytest.fixture(scope="module")
def servicer():
    return EstimatorServicer(KNOWLEDGE)


@pytest.mark.parametrize("hardware", [CPU, hardware_pb2.Hardware(accelerator="l40s")], ids=["cpu", "gpu"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_an_offer_costs_what_its_spec_is_answered(servicer, method, hardware):
    """On a GPU activations are recomputed by default, which takes a third longer and is none of a CPU's settings."""
    spec = run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(name="qwen2.5-1.5b"),
        training=training_pb2.Training(sequence_length=512),
        hardware=hardware,
    )
    getattr(spec, method).SetInParent()
    answer = servicer.estimate(
        estimate_pb2.EstimateRunRequest(spec=spec, dataset_profile=PROFILE, view=estimate_pb2.ESTIMATE_VIEW_FULL)
    )

    assert answer.offers
    for offer in answer.offers:
        spec.hardware.CopyFrom(hardware_pb2.Hardware(accelerator=offer.price.accelerator))
        spec.ownership.rented.price_id = offer.price.price_id
        there = servicer.estimate(estimate_pb2.EstimateRunRequest(spec=spec, dataset_profile=PROFILE))
        assert there.cost.total.amount.expected == pytest.approx(offer.cost.amount.expected)


def test_where_the_settings_do_not_go_nothing_is_offered(servicer):
    """Rows that a CPU may have, and weights of float32, which no quoted card has room for."""
    spec = run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(name="llama-3.1-405b"),
        full=method_pb2.FullFineTuning(),
        precision=training_pb2.PRECISION_FP32,
        hardware=CPU,
    )
    spec.hardware.cpu.memory_bytes = 64 << 40
    answer = servicer.estimate(
        estimate_pb2.EstimateRunRequest(spec=spec, dataset_profile=PROFILE, view=estimate_pb2.ESTIMATE_VIEW_FULL)
    )

    assert not answer.offers


GIB = 1024**3


def quote(price_id: str, accelerator: str, hourly: float, **parts: object) -> Quote:
    return Quote(price_id, accelerator, "x", hourly, **({"currency": "USD", "date": "2026", "source": "y"} | parts))


def search(run, *quotes: Quote) -> list[hardware.Offer]:
    book = PriceBook(quotes, "test", "0") if quotes else price_book.packaged()
    return hardware.offers(answer(run), Knowledge(book))


def answer(run):
    """The run as the answer to a request in the same precision."""
    spec = run_spec_pb2.RunSpec(
        precision=training_pb2.PRECISION_FP32 if run.compute_bytes == 4 else training_pb2.PRECISION_BF16
    )
    request = estimate_pb2.EstimateRunRequest(spec=spec)
    return Answer(ParsedRequest(request, spec, None, run), UNCORRECTED, estimate(run), 0)


def test_the_cheapest_run_comes_first_not_the_cheapest_hour(make_run):
    found = search(make_run(), quote("slow", "t4", 0.5), quote("fast", "h100", 1.0), quote("dear", "h100", 9.0))

    assert [offer.quote.price_id for offer in found][-1] == "dear"
    assert found[0].quote.price_id == "fast"
    assert found[0].amount.expected == pytest.approx(found[0].hours.expected * 1.0)


def test_only_where_the_run_fits(make_run, gpu):
    large = make_run(micro_batch=64, batch=64, sequence_length=4096)
    found = search(large, quote("small", "t4", 0.01), quote("large", "b300", 7.0))

    assert [offer.quote.price_id for offer in found] == ["large"]
    assert found[0].verdict is Verdict.FITS


def test_what_is_not_supported_is_not_offered(make_run):
    assert [
        offer.quote.price_id for offer in search(make_run(), quote("amd", "mi300x", 0.01), quote("b", "h100", 1))
    ] == ["b"]


def test_whole_instances_are_paid(make_run):
    one, eight = search(make_run(), quote("one", "h100", 2.0), quote("eight", "h100", 1.0, min_count=8))

    assert (one.quote.price_id, eight.quote.price_id) == ("one", "eight")
    assert eight.amount.expected == pytest.approx(4 * one.amount.expected)


def test_spot_is_offered_and_marked(make_run):
    (found,) = search(make_run(), quote("spot", "h100", 1.0, term=Term.SPOT))

    assert found.quote.term is Term.SPOT


def test_currencies_are_never_mixed(make_run):
    quotes = (quote("dollars", "h100", 3.0), quote("yen", "h100", 400.0, currency="JPY"))
    yen = make_run(payment=quote("own", "h100", 1.0, currency="JPY"))

    assert [offer.quote.price_id for offer in search(make_run(), *quotes)] == ["dollars"]
    assert [offer.quote.price_id for offer in search(yen, *quotes)] == ["yen"]


def test_without_time_there_is_no_cost_to_compare(make_run):
    assert search(make_run(rows=None, steps=0)) == []


def test_the_search_is_bounded_and_the_same_each_time(make_run, monkeypatch):
    asked, seen = answer(make_run()), []
    monkeypatch.setattr(hardware, "estimate", lambda moved, known: seen.append(moved) or estimate(moved, known))
    first, second = (hardware.offers(asked, KNOWLEDGE) for _ in range(2))

    assert first == second
    assert len(first) == hardware.MAX_OFFERS
    assert len(seen) == 2 * hardware.MAX_ESTIMATES


def test_a_float32_run_stays_one(make_run, gpu):
    single = make_run(weight_bytes=4, compute_bytes=4)
    half, full = search(make_run(), quote("a", "h100", 1.0))[0], search(single, quote("a", "h100", 1.0))[0]

    assert full.hours.expected > 2 * half.hours.expected
    assert search(replace(single, device=replace(gpu, usable_bytes=GIB)), quote("a", "h100", 1.0))
