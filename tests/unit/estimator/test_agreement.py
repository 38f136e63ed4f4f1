# SPDX-License-Identifier: Apache-2.0
"""Answers that agree with themselves: more of something never takes less, and sharing never takes more.

Held by two thousand random plausible specs.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_data_pb2
from finetree_estimator.catalog import accelerators, models, price_book
from finetree_estimator.catalog.price_book import Quote, billed
from finetree_estimator.estimate import Estimate, Prediction
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.attention_scores import score_length
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.memory.fragmentation import left_over
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Memory
from finetree_estimator.memory.sharding import unsharded
from finetree_estimator.memory.step_peak import held_gradients
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.timing.step_time import computes_head_again, step_of
from finetree_runtime.errors import DomainError

KNOWLEDGE = Knowledge(price_book.packaged())
CARDS = [entry.name for entry in accelerators.supported()]
MODELS = [entry.name for entry in models.models()]
SEEDS = range(2000)
ROUNDING = 1e-4
LEFT_OVER = 0.01
"""What is left over of rows of many lengths may fall by this share of the peak: larger micro-batches mix them."""


class Asked(NamedTuple):
    """A spec with what is known of its rows, and its answer."""

    spec: run_spec_pb2.RunSpec
    profile: training_data_pb2.DatasetProfile | None
    run: Run
    answer: Estimate


def method(rng: random.Random, spec: run_spec_pb2.RunSpec) -> None:
    name = rng.choice(["full", "lora", "lora", "lora", "qlora", "qlora", "prefix", "adapter"])
    if name == "full":
        spec.full.frozen_layers = rng.choice([0, 0, 0, 2])
    elif name == "prefix":
        spec.prefix.virtual_tokens = rng.choice([10, 100])
    elif name == "adapter":
        spec.adapter.bottleneck_size, spec.adapter.placement = rng.choice([16, 256]), rng.choice([1, 2, 3])
    else:
        lora = method_pb2.Lora(
            rank=rng.choice([4, 8, 16, 32, 64]), dropout=rng.choice([0.0, 0.05]), targets=rng.choice([1, 1, 2, 3])
        )
        lora.weight_decomposed = rng.random() < 0.1
        if name == "lora":
            spec.lora.CopyFrom(lora)
        else:
            spec.qlora.lora.CopyFrom(lora)
            spec.qlora.quantization = rng.choice([1, 1, 1, 2, 3, 4])


def hardware(rng: random.Random, spec: run_spec_pb2.RunSpec) -> None:
    if rng.random() < 0.08:
        spec.hardware.cpu.cores, spec.hardware.cpu.memory_bytes = rng.choice([4, 16]), 64 << 30
        return
    spec.hardware.accelerator, spec.hardware.count = rng.choice(CARDS), rng.choice([1, 1, 1, 2, 4, 8, 16])
    if spec.hardware.count > 1:
        spec.hardware.sharding = rng.choice([1, 2, 3, 4, 4, 4])
    if spec.hardware.count > 8:
        spec.hardware.nodes = 2


def settings(rng: random.Random, spec: run_spec_pb2.RunSpec) -> None:
    training = spec.training
    training.micro_batch_size = rng.choice([1, 2, 4, 8])
    training.effective_batch_size = training.micro_batch_size * max(1, spec.hardware.count) * rng.choice([1, 2, 4])
    training.sequence_length = rng.choice([128, 256, 512, 1024, 2048, 4096, 8192])
    training.packing = rng.choice([1, 2])
    if spec.WhichOneof("method") != "prefix":
        spec.gradient_checkpointing = rng.choice([0, 1, 2, 2, 3])
    spec.precision, spec.optimizer = rng.choice([0, 1, 2, 2, 3]), rng.choice([1, 1, 1, 2, 3, 4, 5])
    spec.attention, spec.loss_kernel = rng.choice([1, 2, 2, 3]), rng.choice([1, 2, 3, 4])
    spec.program.program = rng.choice([1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8])
    if spec.program.program != 1:
        spec.program.compile = rng.random() < 0.2
        spec.program.sharding_library, spec.program.allocator_cache = rng.randrange(4), rng.choice([0, 0, 1, 2, 3])


def profile(rng: random.Random) -> training_data_pb2.DatasetProfile | None:
    known = rng.choice(["nothing", "number", "mean", "lengths"])
    if known == "nothing":
        return None
    found = training_data_pb2.DatasetProfile(examples=rng.choice([200, 5000, 100_000]))
    if rng.random() < 0.5:
        found.target_fraction = rng.choice([0.1, 0.5])
    if known == "mean":
        found.total_tokens = found.examples * rng.choice([50, 300, 1000])
    if known == "lengths":
        for bound in (64, 256, 1024, 4096):
            found.token_lengths.add(upper_bound=bound, count=rng.choice([1, 5, 10]) * found.examples // 10)
    return found


def answered(spec: run_spec_pb2.RunSpec, known: training_data_pb2.DatasetProfile | None) -> Asked | None:
    """The answer to a spec; None where it is refused, such as for rows longer than the model's positions."""
    try:
        parsed = parse_request(estimate_pb2.EstimateRunRequest(spec=spec, dataset_profile=known), KNOWLEDGE)
    except DomainError:
        return None
    return Asked(spec, known, parsed.run, Prediction(parsed.run).estimate(explained=False))


def asked() -> Iterator[Asked]:
    for seed in SEEDS:
        rng = random.Random(seed)
        spec = run_spec_pb2.RunSpec()
        spec.model.name = rng.choice(MODELS)
        method(rng, spec)
        hardware(rng, spec)
        settings(rng, spec)
        if (found := answered(spec, profile(rng))) is not None:
            yield found


@pytest.fixture(scope="module")
def runs() -> list[Asked]:
    return list(asked())


def changed(one: Asked, **factors: int) -> Asked | None:
    """The run with settings of its training, or its rank, times a factor."""
    spec = run_spec_pb2.RunSpec()
    spec.CopyFrom(one.spec)
    if rank := factors.pop("rank", 0):
        name = spec.WhichOneof("method")
        if name not in ("lora", "qlora"):
            return None
        (spec.lora if name == "lora" else spec.qlora.lora).rank *= rank
    for name, factor in factors.items():
        setattr(spec.training, name, getattr(spec.training, name) * factor)
    return answered(spec, one.profile)


def peaks(one: Asked) -> dict[str, Interval]:
    memory = one.answer.memory
    return {"allocated": memory.allocated, "reserved": memory.reserved, "device": memory.device, "host": memory.host}


def assert_no_less(more: Interval, less: Interval, words: object, *, rounding: float = ROUNDING) -> None:
    for end in ("low", "expected", "high"):
        assert getattr(more, end) >= getattr(less, end) * (1 - rounding), (end, words)


def begins_to_mask(one: Asked, more: Asked) -> bool:
    """Whether rows that need no mask, and keep attention's scores for it in float32, are padded when there are more."""
    return bool(score_length(one.run)) and not score_length(more.run)


# Gradients of earlier micro-batches are there only where a step has several: the batch grows with what fills it, the
# micro-batch and, of the worker's packed rows on a CPU, the length.
@pytest.mark.parametrize(
    "factors",
    [
        {"micro_batch_size": 2, "effective_batch_size": 2},
        {"sequence_length": 2},
        {"rank": 2},
    ],
    ids="-".join,
)
def test_peaks_rise_with_micro_batch_length_and_rank(runs, factors):
    compared = 0
    for one in runs:
        packed = "sequence_length" in factors and one.run.packing and one.run.on_cpu
        more = changed(one, **factors, **({"effective_batch_size": 2} if packed else {}))
        if more is None or begins_to_mask(one, more):
            continue
        compared += 1
        for name, peak in peaks(more).items():
            mixed = "micro_batch_size" in factors and name in ("reserved", "device") and left_over(one.run) is not None
            words = (name, one.spec, one.profile)
            assert_no_less(peak, peaks(one)[name], words, rounding=LEFT_OVER if mixed else ROUNDING)
    assert compared > len(runs) / 4


def test_tokens_per_second_do_not_fall_with_the_micro_batch(runs):
    """But for the second pass of the head that begins where the targets no longer fit into one chunk of the loss."""
    compared = 0
    for one in runs:
        more = changed(one, micro_batch_size=2, effective_batch_size=2)
        if more is None or one.answer.times is None or more.answer.times is None:
            continue
        again = [head_again(each.run) for each in (one, more)]
        if again == [False, True]:
            continue
        compared += 1
        assert_no_less(more.answer.times.tokens_per_second, one.answer.times.tokens_per_second, (one.spec, one.profile))
    assert compared > len(runs) / 2


def test_a_share_takes_no_more_than_a_copy_and_what_it_gathers(runs):
    """Where number formats are the same: some libraries keep float32 masters where they shard, and none elsewhere."""
    compared = 0
    for one in runs:
        if one.run.devices == 1:
            continue
        by_sharding = {}
        for sharding in (1, 2, 3, 4):
            spec = run_spec_pb2.RunSpec()
            spec.CopyFrom(one.spec)
            spec.hardware.sharding = sharding
            by_sharding[sharding] = answered(spec, one.profile)
        copy = by_sharding.pop(1)
        for share in by_sharding.values():
            if formats(share.run) != formats(copy.run):
                continue
            compared += 1
            whole = unsharded(share.run)
            gathered = whole.kept_weights + whole.fetched_weights + whole.head_weights
            gathered += whole.gradients + whole.unreduced_gradients + whole.root_gradients
            gathered += held_gradients(share.run) * share.run.peak_tokens
            # Of a small model, cutting it into shards takes more than any step.
            gathered = max(gathered, whole.setup)
            # The worker loads a model that it shards into the host's memory, in each process.
            loaded = share.run.devices * model_states(share.run).whole_weights if share.run.sharded else 0.0
            for name, peak in peaks(share).items():
                more = gathered + (loaded if name == "host" else 0.0)
                assert peak.expected <= (peaks(copy)[name].expected + more) * (1 + ROUNDING), (name, share.spec)
    assert compared > 50


def head_again(run: Run) -> bool:
    return run.rows is not None and computes_head_again(run, run.rows, step_of(run, run.rows))


def formats(run: Run) -> tuple[int, int, int]:
    return run.weight_bytes, run.compute_bytes, run.master_bytes


def test_ends_are_in_order_and_parts_make_the_whole(runs):
    for one in runs:
        answer, memory = one.answer, one.answer.memory
        parts = dict(memory.components)
        intervals = [*peaks(one).values(), *parts.values()]
        if answer.times is not None:
            intervals += [answer.times.total, answer.times.step, answer.times.tokens_per_second]
        for interval in intervals:
            assert 0 <= interval.low <= interval.expected <= interval.high, one.spec
        assert memory.allocated.expected <= memory.reserved.expected <= memory.device.expected
        assert sum(part.expected for part in parts.values()) == pytest.approx(memory.device.expected)


def test_observed_runs_lower_no_upper_end_of_memory_and_make_nothing_fit(runs):
    rng = random.Random(1)
    for one in runs:
        factor = Factor(
            value=rng.choice([0.5, 0.8, 0.95, 1.0, 1.05, 1.5]),
            weight=rng.random(),
            spread=rng.choice([0.05, 0.3]),
            observations=rng.choice([1, 3, 50]),
        )
        plain, learned = Prediction(one.run), Prediction(one.run, Correction(device="any", memory=factor))
        ends = [[each.high for each in _intervals(found.memory)] for found in (plain, learned)]
        assert all(after >= before for before, after in zip(*ends, strict=True)), one.spec
        for interval in _intervals(learned.memory):
            # Factors are applied in another order than parts are added.
            assert interval.low <= interval.expected * (1 + 1e-12), one.spec
            assert interval.expected <= interval.high * (1 + 1e-12), one.spec
        assert plain.fit.verdict is Verdict.FITS or learned.fit.verdict is not Verdict.FITS, one.spec


def _intervals(memory: Memory) -> list[Interval]:
    return [memory.allocated, memory.reserved, memory.device, memory.host, *dict(memory.components).values()]


def test_a_cost_is_hours_times_price_times_devices(runs):
    priced = 0
    for one in runs:
        cost, quote = one.answer.cost, one.run.payment
        if cost is None or cost.amount is None or not isinstance(quote, Quote):
            continue
        priced += 1
        hours, devices = one.answer.times.total, billed(one.run.devices, quote.min_count)
        for end in ("low", "expected", "high"):
            assert getattr(cost.amount, end) == pytest.approx(getattr(hours, end) / 3600 * quote.hourly * devices)
    assert priced > 20
