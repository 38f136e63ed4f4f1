# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.playbook import FigureKind
from finetree_estimator.catalog.price_book import Owned, Quote
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.whatif import playbook_comparison

LORA = Lora(8, PRESETS["all-linear"], 0.1)
PRICE = Quote(
    price_id="x/y", accelerator="rtx-4090", provider="x", hourly=0.39, currency="USD", date="2026-07-15", source="x"
)


def compared(run, *, examples=1000, runs_per_month=0.0):
    found = playbook_comparison.compare(run, engine.estimate(run), examples=examples, runs_per_month=runs_per_month)
    return {item.figure.kind: item for item in found}


def test_computed_figures_stand_beside_the_playbooks_in_its_units(make_run):
    run = make_run(payment=PRICE)
    estimate = engine.estimate(run)
    found = compared(run, runs_per_month=4)

    assert found[FigureKind.TIME_HOURS].computed.expected == pytest.approx(estimate.times.total.expected / 3600)
    assert found[FigureKind.COST_USD].computed.expected == pytest.approx(estimate.cost.amount.expected)
    assert found[FigureKind.CHART_MONTHLY_USD].computed.expected == pytest.approx(4 * estimate.cost.amount.expected)
    assert found[FigureKind.GPU_MEMORY_GB].computed.high == pytest.approx(estimate.memory.device.high / GIB)


def test_without_a_number_of_runs_no_monthly_cost_is_computed(make_run):
    assert compared(make_run(payment=PRICE))[FigureKind.CHART_MONTHLY_USD].computed is None


@pytest.mark.parametrize("payment", [None, Owned(0.3, "EUR"), replace(PRICE, currency="EUR")])
def test_money_in_another_currency_is_not_compared(make_run, payment):
    found = compared(make_run(payment=payment), runs_per_month=4)

    assert found[FigureKind.COST_USD].computed is None
    assert found[FigureKind.CHART_MONTHLY_USD].computed is None
    assert not found[FigureKind.COST_USD].note


def test_a_disagreement_is_noted_with_its_factor_and_the_likely_reasons(make_run):
    found = compared(make_run(payment=PRICE))
    factor = 3.0 / found[FigureKind.COST_USD].computed.expected

    note = found[FigureKind.COST_USD].note
    assert note.startswith(f"{factor:,.0f} times above the computed value: ")
    differences = (
        "7B in the playbook, 3.21B",
        "A100 40GB in the playbook, test GPU",
        "$1.50 an hour in the playbook, $0.39",
    )
    assert [text for text in (*differences, "row lengths and epochs") if text not in note] == []


def test_a_model_and_a_gpu_like_the_playbooks_are_no_reason(make_run, gpu):
    device = replace(gpu, name="NVIDIA A100 40GB SXM", usable_bytes=round(39.4 * GIB))
    note = compared(make_run(shape=model("llama-2-7b").shape, device=device))[FigureKind.CHART_TIME_HOURS].note

    assert "7B" not in note
    assert "A100" not in note
    assert "row lengths and epochs" in note


def test_a_figure_inside_the_computed_interval_carries_no_note(make_run):
    run = make_run(method=Full(), master_bytes=4, micro_batch=1, checkpointing=True)
    found = compared(run)[FigureKind.GPU_MEMORY_GB]

    def note(value: float) -> str:
        return playbook_comparison._note(
            replace(found.figure, value=value), found.computed, run, estimate=engine.estimate(run)
        )

    assert not note((found.computed.low + found.computed.high) / 2)
    assert note(found.computed.high * 1.01)
    assert note(found.computed.low * 0.99)


def test_several_gpus_and_a_size_beyond_the_table_are_named_as_differences(make_run):
    note = compared(make_run(devices=8), examples=10**6)[FigureKind.TIME_HOURS].note

    assert "one GPU in the playbook, 8" in note
    assert "extrapolated" in note


def test_a_gpu_larger_than_the_peak_is_named_as_a_gpu(make_run):
    run = make_run(shape=model("smollm2-135m-instruct").shape, micro_batch=1)

    assert compared(run)[FigureKind.GPU_MEMORY_GB].note.endswith("a GPU's size, not a peak")


def test_a_lower_bound_is_not_contradicted_by_more(make_run):
    run = make_run(method=Full(), payment=replace(PRICE, hourly=500.0))
    found = compared(run, runs_per_month=1000)[FigureKind.CHART_MONTHLY_USD]

    assert found.computed.low > found.figure.value
    assert not found.note


def test_no_computed_cost_at_all_is_far_from_the_playbooks(make_run):
    assert compared(make_run(payment=replace(PRICE, hourly=0.0)))[FigureKind.COST_USD].note.startswith("far above")


@pytest.mark.parametrize("method", [Full(), LORA, Qlora.of(LORA, bits=8), Prefix(20), Adapter(64)])
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_each_method_is_compared_on_gpu_and_cpu_without_a_number_of_rows_too(make_run, request, method, device):
    run = make_run(method=method, device=request.getfixturevalue(device))

    assert len(compared(run)) == (3 if isinstance(method, Adapter) else 5)
    assert FigureKind.TIME_HOURS not in compared(replace(run, rows=None, steps=0), examples=0)
