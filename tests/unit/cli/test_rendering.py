# SPDX-License-Identifier: Apache-2.0
"""Numbers and events as people read them."""

import json

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_cli.demo import dataset, sizing
from finetree_cli.options.spec import machine_hardware
from finetree_cli.output import Output, plain
from finetree_cli.render import units
from finetree_cli.render.estimator import catalogue, estimate
from finetree_cli.render.trainer import events


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (units.size(500), "500 B"),
        (units.size(270 * 2**20), "270 MiB"),
        (units.size(1.5 * 2**30), "1.50 GiB"),
        (units.duration(0.84), "0.8 s"),
        (units.duration(9.97), "10 s"),
        (units.duration(59.6), "1 min 0 s"),
        (units.duration(125), "2 min 5 s"),
        (units.duration(12_000), "3 h 20 min"),
        (units.duration(187_200), "2 d 4 h"),
        (units.money(0.00214, "USD"), "$0.0021"),
        (units.money(12.4, "EUR"), "€12.40"),
        (units.money(0.4, "USD"), "$0.40"),
        (units.money(0, "CHF"), "CHF 0.00"),
        (units.count(134_515_008), "135 M"),
        (units.count(812), "812"),
        (units.count(9999), "9999"),
        (units.count(12_345), "12.3 k"),
        (units.count(999_885_952), "1 B"),
        (units.rate(2.14e12), "2.1 TFLOP/s"),
        (units.rate(7.8e11), "780 GFLOP/s"),
        (units.word(job_pb2.JobState, job_pb2.JOB_STATE_QUEUED), "queued"),
        (units.word(job_pb2.JobState, 99), "unknown (99)"),
    ],
)
def test_units(found, expected):
    assert found == expected


def test_gpus_that_cannot_be_trained_on_yet_say_so_in_the_list(capsys):
    found = [
        pb.Accelerator(name="apple-m9", architecture="Apple silicon", unsupported="Apple's GPUs are not supported yet"),
        pb.Accelerator(name="t4", architecture="Turing", marketed_memory_gb=16, usable_bytes=15 << 30),
    ]
    catalogue.show_accelerators(Output(), found)
    apple, turing = (line.split() for line in capsys.readouterr().out.splitlines() if "apple" in line or "t4" in line)

    assert " ".join(apple) == "apple-m9 Apple silicon - not supported yet - - -"
    assert " ".join(turing) == "t4 Turing 16 GB 15.00 GiB - no -"


def step(number: int, total: int = 100) -> event_pb2.JobEvent:
    metrics = event_pb2.StepMetrics(step=number, total_steps=total, loss=2.5, tokens_per_second=800)
    return event_pb2.JobEvent(seq=number, step_metrics=metrics)


def test_lines_leave_out_most_steps_and_nothing_else(capsys):
    with events.LineView(Output(), every=3600) as view:
        for number in range(1, 101):
            view.show(step(number))
        view.show(event_pb2.JobEvent(message="saved", checkpoint_saved=event_pb2.CheckpointSaved(step=100)))
        view.show(event_pb2.JobEvent())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "step 1/100  loss 2.500  800 tokens/s",
        "step 100/100  loss 2.500  800 tokens/s",
        "saved",
    ]


def test_json_lines_are_events_with_numbers(capsys):
    with events.JsonView(Output(json=True)) as view:
        view.show(step(7))
    line = json.loads(capsys.readouterr().out)
    assert line["seq"] == 7
    assert line["step_metrics"]["total_steps"] > 99


def test_an_evaluation_says_what_was_measured():
    metrics = event_pb2.EvalMetrics(step=0, examples=180, exact_match=0.0)
    assert events.text(event_pb2.JobEvent(eval_metrics=metrics)) == (
        "evaluation at step 0 on 180 rows  exact match 0.0%"
    )


def capacity(bf16: float, **device: str) -> trainer_pb2.GetCapacityResponse:
    hardware = rs.Hardware(**(device or {"cpu": rs.CpuDevice(cores=2)}))
    return trainer_pb2.GetCapacityResponse(
        devices=[trainer_pb2.Device(hardware=hardware)], host_bf16_flops_per_second=bf16, host_cpu_name="A CPU"
    )


@pytest.mark.parametrize(
    ("rate", "countries"), [(0, 60), (0.5e12, 60), (2e12, 60), (4e12, 120), (100e12, len(dataset.available()))]
)
def test_the_demo_grows_with_the_machine(rate, countries):
    assert sizing.choose(capacity(rate), None).countries == countries


def test_a_gpu_takes_every_country_and_a_wish_wins():
    gpu = capacity(1e12, accelerator="rtx-4090")
    assert sizing.choose(gpu, None).countries == len(dataset.available())
    assert sizing.choose(gpu, 61).countries == 61


def test_this_machine_is_its_gpu_or_its_cpu_with_the_measured_rates():
    found = machine_hardware(capacity(3e12))
    assert (found.cpu.cores, found.cpu.bf16_flops_per_second, found.cpu.model_name) == (2, 3e12, "A CPU")
    both = capacity(3e12)
    both.devices.add().hardware.accelerator = "rtx-4090"
    assert machine_hardware(both).accelerator == "rtx-4090"


def test_what_would_fit_is_told(capsys):
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

    assert capsys.readouterr().out.splitlines() == [
        "Remedy: recompute activations: about 13.5 GiB, fits",
        "Largest that fits, all else as it is: not even one row at a time; 320 tokens a row",
        "Smallest hardware that fits: 2 x l40s (40.00 GiB of 44.00 GiB each)",
        *["Offer: 2 x l4 from x, on demand: 1 h 30 min, $2.00 ($1.00 to $4.00) (x/l4)"] * 3,
    ]


def test_what_is_unknown_is_left_out_and_no_zero(capsys):
    runs = [
        pb.EvidenceRow(description="a", peak_bytes=1 << 30),
        pb.EvidenceRow(description="b", tokens_per_second=4665),
    ]
    found = pb.Estimate(nearest_evidence=runs, trainable_parameters=8, total_parameters=135_000_000)
    estimate.show_time(Output(), found)
    estimate.show(Output(), found)

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "8 of 135 M parameters are trained"
    assert [line for line in printed if line.startswith("Near")] == ["Near: a: 1.00 GiB", "Near: b: 4665 tokens/s"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Z\u00fcrich \u6f22\u5b57\n\tnext", "Z\u00fcrich \u6f22\u5b57\n\tnext"),
        ("a\x1b]0;title\x07b", "a\ufffd]0;title\ufffdb"),
        ("safe\u202eevil\r", "safe\ufffdevil\ufffd"),
        ("\U0001f468\u200d\U0001f4bb", "\U0001f468\u200d\U0001f4bb"),
    ],
)
def test_nothing_that_is_shown_commands_the_terminal(capsys, text, shown):
    assert plain(text) == shown
    out = Output()
    out.text(text)
    out.say(text)
    out.heading(text)
    out.paragraph(text)
    out.bullet(text)
    out.table(["name"], [[text]], title=text)
    captured = capsys.readouterr()
    assert not set("\x1b\x07\r\u202e") & set(captured.out + captured.err)
