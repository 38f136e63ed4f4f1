# SPDX-License-Identifier: Apache-2.0
"""The verdict that `finetree recommend` prints."""

import shlex
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2 as pb
from finetree_api.types.v1 import (
    estimate_summary_pb2,
    evidence_pb2,
    hardware_pb2,
    method_pb2,
    model_pb2,
    run_spec_pb2,
    training_pb2,
)
from finetree_cli.output import Output
from finetree_cli.render.recommender.explanation import show_explanation
from finetree_cli.render.recommender.verdict import Asked, show_verdict

GIB = 1 << 30
ASKED = Asked(("recommend", "--model", "llama 3.1 8b", "--gpu", "rtx-4090"))


def interval(low: float, expected: float, high: float) -> evidence_pb2.Interval:
    return evidence_pb2.Interval(low=low, expected=expected, high=high)


def answer(**fields: Any) -> pb.RecommendResponse:
    """A recommendation of LoRA with all three numbers."""
    cost = evidence_pb2.MoneyInterval(amount=interval(0.16, 1.6, 3.1), currency_code="USD")
    given = {
        "verdict": pb.Verdict(method=method_pb2.METHOD_LORA, headline="LoRA: it is what the rules recommend"),
        "spec": run_spec_pb2.RunSpec(
            model=model_pb2.ModelSource(name="llama-3.1-8b"),
            lora=method_pb2.Lora(rank=8),
            training=training_pb2.Training(sequence_length=2048),
            hardware=hardware_pb2.Hardware(accelerator="rtx-4090"),
        ),
        "estimate": estimate_summary_pb2.EstimateSummary(
            device_bytes=interval(16.5 * GIB, 18.5 * GIB, 20.5 * GIB),
            usable_device_bytes=int(23.52 * GIB),
            fit=estimate_summary_pb2.FIT_VERDICT_FITS,
            total_seconds=interval(660, 7200, 15000),
            cost=cost,
        ),
        "confidence": pb.VerdictConfidence(level=evidence_pb2.CONFIDENCE_LEVEL_MEDIUM),
    }
    return pb.RecommendResponse(**(given | fields))


def printed(capsys, response: pb.RecommendResponse, asked: Asked = ASKED) -> str:
    show_verdict(Output(), response, asked)
    return capsys.readouterr().out


def test_it_is_the_method_three_numbers_and_the_next_command(capsys):
    out = printed(capsys, answer())
    assert out.startswith("LoRA: it is what the rules recommend (confidence: medium)\n")
    for line in (
        "  Memory  about 17 to 21 GiB of 24",
        "  Time    about 2 h (11 min to 4.5 h)",
        "  Cost    about $1.60 ($0.16 to $3.10) (a rental price; of your own GPU: --price-per-kwh AMOUNT)",
        "Next: finetree recommend --model 'llama 3.1 8b' --gpu rtx-4090 --output job.yaml",
        "      finetree train job.yaml --data FILE",
    ):
        assert f"{line}\n" in out
    assert len(out.splitlines()) <= 10


def test_at_most_three_cautions_are_told_those_about_a_harm_first(capsys):
    codes = ("DATASET_UNKNOWN", "SERVING_NOTE", "MODEL_SIZE_UNKNOWN", "MEMORY_TIGHT", "OVER_BUDGET", "ROWS_CUT")
    cautions = [pb.Caution(code=code, message=f"beware of {code.lower()}") for code in codes]
    out = printed(capsys, answer(cautions=cautions))
    told = [line.split()[-1] for line in out.splitlines() if line.startswith("  Caution:")]
    assert told == ["memory_tight", "over_budget", "rows_cut"]
    assert "and 2 more: see --explain" in out


def test_a_time_of_rows_of_unknown_length_has_its_lower_end_for_short_rows(capsys):
    caution = pb.Caution(code="LENGTHS_UNKNOWN", message="lengths are unknown")
    out = printed(capsys, answer(cautions=[caution]))
    assert "  Time    about 2 h, at most 4.5 h; 11 min if rows are short" in out
    assert "Caution" not in out
    assert "  Cost    about $1.60, at most $3.10; $0.16 if rows are short (a rental price; " in out


def test_the_cost_of_owned_hardware_is_its_electricity(capsys):
    found = answer()
    found.spec.ownership.owned.watts = 300
    assert "($0.16 to $3.10) (electricity of your own hardware)" in printed(capsys, found)


def test_the_first_offer_to_rent_stands_with_the_numbers(capsys):
    offers = [pb.Caution(code="RENT", message=f"LoRA on {name}") for name in ("an L4", "an A10")]
    out = printed(capsys, answer(cautions=offers))
    assert "  Rented  LoRA on an L4\n" in out
    assert "an A10" not in out


def test_what_may_be_rented_is_named_in_the_next_command_as_soon_as_the_rows_are_counted(capsys):
    asked = Asked(("recommend", "--model", "llama-3.1-8b", "--can-rent"))
    response = answer(spec=run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="llama-3.1-8b")))
    response.ClearField("estimate")
    assert "Next: finetree recommend --model llama-3.1-8b --can-rent --examples 1000\n" in printed(
        capsys, response, asked
    )
    response.spec.dataset.profile.examples = 5000
    response.cautions.add(code="RENT", message="LoRA on a rented l4", hardware={"accelerator": "l4", "count": 1})
    response.cautions.add(code="RENT", message="LoRA on a rented a10", hardware={"accelerator": "a10", "count": 1})
    out = printed(capsys, response, asked)
    assert "Next: finetree recommend --model llama-3.1-8b --can-rent --gpu l4\n" in out
    del response.cautions[:]  # no GPU of the price book has the memory
    out = printed(capsys, response, asked)
    assert "Next: finetree recommend --model llama-3.1-8b --can-rent --gpu NAME\n" in out
    assert "example" not in out


def test_what_is_missing_is_asked_for_with_its_option(capsys):
    without = answer()
    without.estimate.ClearField("total_seconds")
    without.estimate.ClearField("cost")
    assert "  Time    depends on the number of rows: add --data FILE, or --examples N" in printed(capsys, without)
    unnamed = answer(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora()))
    unnamed.ClearField("estimate")
    out = printed(capsys, unnamed, Asked(("recommend",)))
    assert "not estimated: add --model NAME and --gpu NAME, --cpu or --this-machine" in out
    assert "Next: finetree recommend --model smollm2-135m-instruct --gpu rtx-4090\n" in out
    assert out.count(" is an example") == 2


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        ("MODEL_UNKNOWN", ("--cpu",), "--model smollm2-135m-instruct --memory-gb 25.2"),
        ("MODEL_UNKNOWN", ("--cpu", "--memory-gb=8"), "--model smollm2-135m-instruct"),
        ("MODEL_UNKNOWN", ("--gpu-memory", "1"), "--model smollm2-135m-instruct"),
        ("FIT_UNKNOWN", ("--cpu", "--model", "m"), "--memory-gb 25.2"),
    ],
)
def test_without_a_method_the_next_command_can_be_pasted_and_says_what_was_filled_in(capsys, code, words, options):
    cautions = [
        pb.Caution(code=code, message="unknown"),
        pb.Caution(code="MODEL_SIZE_UNKNOWN", message="a 7B model's rate"),
    ]
    response = pb.RecommendResponse(verdict=pb.Verdict(headline="Name it"), cautions=cautions)
    out = printed(capsys, response, Asked(("recommend", *words), memory_gb=25.2))
    command = f"Next: finetree recommend {' '.join(words)} {options}"
    assert f"{command}\n" in out
    assert shlex.split(command)[2:] == ["recommend", *words, *options.split()]
    assert ("the model is an example" in out) == ("--model smollm2" in command)
    assert ("the memory is this computer's" in out) == ("--memory-gb 25.2" in command)
    assert "rate" not in out


def test_a_written_job_file_is_trained_next_and_a_named_dataset_needs_no_file(capsys):
    response = answer()
    response.spec.dataset.name = "mine"
    out = printed(capsys, response, Asked(("recommend",), job_file="my job.yaml"))
    assert "Next: finetree train 'my job.yaml'\n" in out


def test_where_nothing_trains_there_is_no_number_and_no_training(capsys):
    response = pb.RecommendResponse(verdict=pb.Verdict(headline="Nothing trains here"), cautions=[pb.Caution()])
    out = printed(capsys, response)
    assert out.startswith("Nothing trains here\n")
    assert "finetree train" not in out
    assert "Memory" not in out


def way(kind: str, message: str, **change: Any) -> pb.WayOut:
    found = run_spec_pb2.RunSpec(**change) if change else None
    return pb.WayOut(kind=f"WAY_OUT_KIND_{kind}", message=message, change=found, trainable_here=kind != "SEVERAL_GPUS")


def test_where_nothing_trains_it_is_said_what_would_and_the_first_that_trains_here_is_next(capsys):
    sharded = hardware_pb2.Hardware(accelerator="t4", count=4, sharding=hardware_pb2.SHARDING_FULL)
    response = pb.RecommendResponse(
        verdict=pb.Verdict(headline="Nothing trains here as asked"),
        cautions=[pb.Caution(code="NOTHING_FITS", message="no recipe was shown to fit")],
        ways_out=[
            way("SEVERAL_GPUS", "QLoRA on 4 T4", hardware=sharded),
            way("ANOTHER_GPU", "LoRA on a B200", hardware=hardware_pb2.Hardware(accelerator="b200", count=1)),
            way("SMALLER_MODEL", "LoRA of a smaller one", model=model_pb2.ModelSource(name="llama-3.2-1b")),
            way("OTHER_TOOL", "DeepSpeed with offload"),
        ],
    )
    asked = Asked(("recommend", "--model", "llama-3.1-70b", "--gpu=t4", "--devices", "2", "--examples", "5000"))
    out = printed(capsys, response, asked)
    for line in (
        "  What would train:",
        "  - QLoRA on 4 T4 (--gpu t4 --devices 4 --sharding fsdp)",
        "  - LoRA on a B200 (--gpu b200)",
        "  - LoRA of a smaller one (--model llama-3.2-1b)",
        "  - DeepSpeed with offload",
        "Next: finetree recommend --model llama-3.1-70b --examples 5000 --gpu b200",
    ):
        assert f"{line}\n" in out
    assert "Caution" not in out
    del response.ways_out[1]
    assert "Next: finetree recommend --gpu=t4 --devices 2 --examples 5000 --model llama-3.2-1b\n" in printed(
        capsys, response, asked
    )


def test_ways_without_truncated_rows_stand_beside_a_method_that_truncates(capsys):
    out = printed(capsys, answer(ways_out=[way("ANOTHER_GPU", "LoRA on a B200")]))
    assert "  Without truncated rows:\n  - LoRA on a B200\n" in out
    assert "finetree train job.yaml" in out


def test_what_this_suite_does_not_train_is_written_and_not_trained(capsys):
    caution = pb.Caution(code="NOT_TRAINED_HERE", message="sharded")
    out = printed(capsys, answer(cautions=[caution]))
    assert "--output job.yaml" in out
    assert "finetree train" not in out
    assert "Next" not in printed(capsys, answer(cautions=[caution]), Asked(("recommend",), job_file="job.yaml"))


def test_a_speed_that_is_assumed_can_be_measured(capsys):
    response = answer()
    response.spec.hardware.CopyFrom(hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice()))
    assert "its speed is assumed, and measured with --this-machine" in printed(capsys, response)
    assert "assumed" not in printed(capsys, response, Asked(("recommend", "--this-machine")))


def test_a_long_headline_is_wrapped_between_words_and_the_confidence_stays_whole(capsys):
    words = "LoRA: the rules prefer full fine-tuning, which does not fit in memory; this method does well"
    first, second = printed(capsys, answer(verdict=pb.Verdict(method=2, headline=words))).splitlines()[:2]
    assert first == words
    assert second == "(confidence: medium)"


def test_numbers_that_are_a_mistake_are_read_from_the_file_next(capsys):
    caution = pb.Caution(code="IMPLAUSIBLE_INPUT", message="1 row of data")
    asked = Asked(("recommend", "--model", "m", "--examples", "1", "--tokens-per-example=300", "--quality", "maximum"))
    out = printed(capsys, answer(cautions=[caution]), asked)
    assert "Next: finetree recommend --model m --quality maximum --data FILE\n" in out
    assert "finetree train" not in out


def test_limits_that_need_the_number_of_rows_ask_for_it(capsys):
    response = answer(cautions=[pb.Caution(code="BUDGET_UNCHECKED", message="unknown")])
    response.ClearField("estimate")
    response.spec.ClearField("hardware")
    asked = Asked(("recommend",))
    assert "Next: finetree recommend --gpu rtx-4090 --examples 1000\n" in printed(capsys, response, asked)
    response.spec.dataset.profile.examples = 5
    assert "Next: finetree recommend --gpu rtx-4090\n" in printed(capsys, response, asked)


def test_an_explanation_too_says_what_would_train_and_what_to_type_next(capsys):
    cautions = [pb.Caution(code="RENT", message="LoRA on a rented l4", redirect=method_pb2.METHOD_LORA)]
    response = pb.RecommendResponse(
        summary="Nothing trains here as asked.",
        cautions=cautions,
        ways_out=[way("ANOTHER_GPU", "LoRA fits: 60 of 80 GiB", hardware=hardware_pb2.Hardware(accelerator="big"))],
    )
    show_explanation(Output(), response, ASKED)
    out = capsys.readouterr().out
    assert out.startswith("Recommendation: none\n")
    assert "  - LoRA fits: 60 of 80 GiB (--gpu big)\n" in out
    assert out.endswith("Next: finetree recommend --model 'llama 3.1 8b' --gpu big\n")
    assert "consider" not in out  # an offer names its method
