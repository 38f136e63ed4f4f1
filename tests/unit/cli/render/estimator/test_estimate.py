# SPDX-License-Identifier: Apache-2.0
"""Estimates as text."""

import click
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2
from finetree_cli.output import Output
from finetree_cli.render.estimator import estimate

COMMAND = click.Command("estimate", params=[click.Option(["--rank"]), click.Option(["--examples"])])


def test_what_was_assumed_is_one_line_with_the_option_or_the_key_that_changes_it(capsys):
    settings = [("rank 8", "spec.lora.rank"), ("dropout 0.1", "spec.lora.dropout")]
    remarks = [check_pb2.Remark(code="SETTING_ASSUMED", message=text, field_path=path) for text, path in settings]
    remarks.append(check_pb2.Remark(code="ROWS_UNKNOWN", message="unknown: give dataset.profile.examples"))
    estimate.show(Output(), estimate_pb2.Estimate(remarks=remarks), COMMAND)
    lines = capsys.readouterr().out.splitlines()
    assert "Assumed: rank 8 (--rank), dropout 0.1 (lora.dropout)" in lines
    assert [line for line in lines if line.startswith("Note")] == ["Note: unknown: give --examples"]


def test_an_assumed_speed_of_a_cpu_names_the_option_that_takes_the_measured_one(capsys):
    remark = check_pb2.Remark(code="CPU_RATE_UNKNOWN", message="its speed is assumed", field_path="matrix_rates")
    command = click.Command("estimate", params=[click.Option(["--this-machine"])])
    for each in (command, COMMAND):
        estimate.show(Output(), estimate_pb2.Estimate(remarks=[remark]), each)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note")]
    measured = "; --this-machine takes the trainer's machine with its measured rate"
    assert notes == [f"Note: its speed is assumed{measured}", "Note: its speed is assumed"]


def test_remedies_sizes_hardware_and_offers_are_shown(capsys):
    found = estimate_pb2.Estimate(
        remedies=[estimate_pb2.Remedy(summary="recompute activations: about 13.5 GiB, fits")],
        largest=estimate_pb2.LargestThatFits(sequence_length=320),
        smallest_hardware=[estimate_pb2.HardwareOption(accelerator="l40s", count=2, usable_device_bytes=44 << 30)],
    )
    found.smallest_hardware[0].device_bytes.expected = 40 << 30
    price = catalog_pb2.Price(price_id="x/l4", accelerator="l4", provider="x", term=catalog_pb2.PRICE_TERM_ON_DEMAND)
    for _ in range(5):
        offer = found.offers.add(price=price, count=2)
        offer.hours.expected = 1.5
        offer.cost.currency_code = "USD"
        offer.cost.amount.low, offer.cost.amount.expected, offer.cost.amount.high = 1, 2, 4
    estimate.show_what_fits(Output(), found)
    estimate.show_what_fits(Output(), estimate_pb2.Estimate())

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "recompute activations: about 13.5 GiB, fits" in lines[0]
    assert "320" in lines[1]
    assert "2 x l40s (40.00 GiB of 44.00 GiB each)" in lines[2]
    assert len(set(lines[3:])) == 1
    for fact in ("2 x l4 from x", "on demand", "1 h 30 min", "$2.00 ($1.00 to $4.00)", "(x/l4)"):
        assert fact in lines[3]


def test_what_is_unknown_is_left_out_and_no_zero(capsys):
    runs = [
        estimate_pb2.MeasuredRun(description="a", peak_bytes=1 << 30),
        estimate_pb2.MeasuredRun(description="b", tokens_per_second=4665),
    ]
    found = estimate_pb2.Estimate(nearest_runs=runs, trainable_parameters=8, total_parameters=135_000_000)
    estimate.show_time(Output(), found)
    estimate.show(Output(), found, COMMAND)

    printed = capsys.readouterr().out.splitlines()
    assert "8 of 135 M" in printed[0]
    assert [line.partition(": ")[2] for line in printed if "1.00 GiB" in line or "4665" in line] == [
        "a: 1.00 GiB",
        "b: 4665 tokens/s",
    ]
