# SPDX-License-Identifier: Apache-2.0
"""Estimates as text."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_cli.output import Output
from finetree_cli.render.estimator import estimate


def test_remedies_sizes_hardware_and_offers_are_shown(capsys):
    found = pb.Estimate(
        remedies=[pb.Remedy(summary="recompute activations: about 13.5 GiB, fits")],
        largest=pb.LargestThatFits(sequence_length=320),
        smallest_hardware=[pb.HardwareOption(accelerator="l40s", count=2, usable_device_bytes=44 << 30)],
    )
    found.smallest_hardware[0].device_bytes.expected = 40 << 30
    price = pb.Price(price_id="x/l4", accelerator="l4", provider="x", term=pb.PRICE_TERM_ON_DEMAND, currency_code="USD")
    for _ in range(5):
        offer = found.offers.add(price=price, count=2)
        offer.hours.expected = 1.5
        offer.amount.low, offer.amount.expected, offer.amount.high = 1, 2, 4
    estimate.show_what_fits(Output(), found)
    estimate.show_what_fits(Output(), pb.Estimate())

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
        pb.EvidenceRow(description="a", peak_bytes=1 << 30),
        pb.EvidenceRow(description="b", tokens_per_second=4665),
    ]
    found = pb.Estimate(nearest_evidence=runs, trainable_parameters=8, total_parameters=135_000_000)
    estimate.show_time(Output(), found)
    estimate.show(Output(), found)

    printed = capsys.readouterr().out.splitlines()
    assert "8 of 135 M" in printed[0]
    assert [line.partition(": ")[2] for line in printed if "1.00 GiB" in line or "4665" in line] == [
        "a: 1.00 GiB",
        "b: 4665 tokens/s",
    ]
