# SPDX-License-Identifier: Apache-2.0

import pytest
from finetree_estimator.catalog import playbook
from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.playbook import FigureKind
from finetree_estimator.intervals import Kind

ALL_METHODS = ["full", "lora", "qlora", "prefix", "adapter"]


def figure(kind, method="lora", *, bits=0, examples=1000, gib=24.0):
    return {f.kind: f for f in playbook.figures(method, bits, examples=examples, usable_bytes=round(gib * GIB))}.get(
        kind
    )


@pytest.mark.parametrize(
    ("method", "hours"),
    [
        ("full", [8, 24, 5 * 24, 30 * 24]),
        ("lora", [45 / 60, 2, 8, 3 * 24]),
        ("qlora", [1, 3, 12, 5 * 24]),
        ("prefix", [20 / 60, 45 / 60, 2, 24]),
        ("adapter", [50 / 60, 2.5, 10, 4 * 24]),
    ],
)
def test_a_size_of_the_time_table_is_answered_as_it_stands(method, hours):
    for examples, expected in zip([100, 1000, 10_000, 100_000], hours, strict=True):
        found = figure(FigureKind.TIME_HOURS, method, examples=examples)
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert not found.interpolated
        assert not found.extrapolated


def test_between_two_sizes_the_time_is_the_geometric_mean_of_their_logarithms():
    found = figure(FigureKind.TIME_HOURS, "full", examples=round(1000 * 10**0.5))

    assert found.value == pytest.approx((24 * 120) ** 0.5, rel=1e-3)
    assert found.interpolated
    assert not found.extrapolated


@pytest.mark.parametrize(
    ("examples", "hours"), [(1_000_000, 72 * 9), (10, 0.75 * 0.75 / 2)], ids=["above the table", "below it"]
)
def test_beyond_the_table_the_end_segments_run_on_and_the_figure_says_so(examples, hours):
    found = figure(FigureKind.TIME_HOURS, "lora", examples=examples)

    assert found.value == pytest.approx(hours)
    assert found.extrapolated
    assert not found.interpolated


@pytest.mark.parametrize("method", ALL_METHODS)
def test_time_and_cost_grow_with_the_size_of_the_data(method):
    for kind in (FigureKind.TIME_HOURS, FigureKind.COST_USD):
        values = [figure(kind, method, examples=n).value for n in (1, 99, 100, 101, 999, 5000, 10**5, 10**9, 2**53)]
        assert values == sorted(values)
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("method", "thousand", "ten_thousand"),
    [("full", 60, 300), ("lora", 3, 12), ("qlora", 2.4, 9.6), ("prefix", 0.27, 0.8), ("adapter", 3.75, 15)],
)
def test_the_cost_table_is_answered_as_it_stands(method, thousand, ten_thousand):
    values = [figure(FigureKind.COST_USD, method, examples=examples).value for examples in (1000, 10_000)]

    assert values == [thousand, ten_thousand]


def test_a_cost_names_its_gpu_and_its_price():
    found = figure(FigureKind.COST_USD, "qlora")

    assert found.stated_for == "7B, RTX 4090 at $0.80 an hour"


@pytest.mark.parametrize(
    ("method", "gib", "row"),
    [
        ("lora", 79.2, ("A100 40GB", 2, 200)),
        ("lora", 39.4, ("A100 40GB", 2, 200)),
        ("lora", 31.5, ("RTX 4090", 3, 100)),
        ("lora", 22.06, ("RTX 4090", 3, 100)),
        ("lora", 7.8, ("RTX 4090", 3, 100)),
        ("full", 23.6, ("A100 80GB", 24, 2000)),
        ("qlora", 15.7, ("RTX 4080", 4, 50)),
        ("prefix", 7.9, ("GTX 1080", 1, 20)),
    ],
)
def test_the_chart_answers_the_row_of_method_and_memory_class(method, gib, row):
    hours = figure(FigureKind.CHART_TIME_HOURS, method, gib=gib)
    monthly = figure(FigureKind.CHART_MONTHLY_USD, method, gib=gib)

    assert (hours.gpu, hours.value, monthly.value) == row


def test_the_chart_has_no_row_for_bottleneck_adapters():
    assert figure(FigureKind.CHART_TIME_HOURS, "adapter") is None


def test_the_monthly_cost_of_full_training_is_a_lower_bound():
    assert figure(FigureKind.CHART_MONTHLY_USD, "full").stated_for == "A100 80GB, a lower bound"


@pytest.mark.parametrize(
    ("method", "bits", "gb"),
    [("full", 0, 80), ("lora", 0, 24), ("qlora", 4, 16), ("qlora", 8, 24), ("prefix", 0, 8), ("adapter", 0, 24)],
)
def test_the_memory_that_a_method_asks_for(method, bits, gb):
    assert figure(FigureKind.GPU_MEMORY_GB, method, bits=bits).value == gb


@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_figure_says_what_it_is_stated_for_and_where_it_stands(method):
    for found in playbook.figures(method, 4 if method == "qlora" else 0, examples=500, usable_bytes=24 * GIB):
        assert found.stated_for
        assert found.source.kind is Kind.PLAYBOOK
        assert found.source.locator.startswith("L")


def test_without_a_number_of_examples_only_chart_and_memory_are_answered():
    found = {item.kind for item in playbook.figures("lora", 0, examples=0, usable_bytes=24 * GIB)}

    assert found == {FigureKind.CHART_TIME_HOURS, FigureKind.CHART_MONTHLY_USD, FigureKind.GPU_MEMORY_GB}
