# SPDX-License-Identifier: Apache-2.0
"""What runs measured, from its report to the next estimate, over a socket."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime

import grpc
import pytest
from finetree.testing import Clock, Suite
from finetree_api.estimator.v1 import calibration_pb2, estimator_pb2, estimator_pb2_grpc
from finetree_api.types.v1 import method_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.learner import Learner, load
from finetree_estimator.servicer import SERVICE, EstimatorServicer
from finetree_estimator.settings import NAME, Settings
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.server.service import Service, serving
from google.protobuf import json_format

KNOWN = Knowledge(price_book.packaged())


@pytest.fixture
async def learning(tmp_path, served_by):
    """A stub of an estimator that learns, or of the fake suite's, which keeps what is reported."""
    if served_by == "suite":
        with Suite(clock=Clock(datetime.now(UTC))) as suite:
            async with grpc.aio.insecure_channel(suite.address) as channel:
                yield estimator_pb2_grpc.EstimatorServiceStub(channel)
        return
    learner = Learner(tmp_path / "state", KNOWN, estimate)
    service = Service(NAME, "0", Settings(address="127.0.0.1:0", log_level="error"))
    servicer = EstimatorServicer(KNOWN, learner=learner)
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, servicer, SERVICE)
    async with serving(service) as address, grpc.aio.insecure_channel(address) as channel:
        yield estimator_pb2_grpc.EstimatorServiceStub(channel)
    learner.close()


@pytest.fixture
def report_of(request_of):
    """A ReportObservation of a run on an RTX 4090 that took 1.2 s a step, with parts replaced."""

    def make(number: int = 1, request_id: str = "", **parts: object) -> calibration_pb2.ReportObservationRequest:
        observation = calibration_pb2.Observation(
            job=f"projects/default/jobs/{number}",
            attempt=1,
            run=request_of(),
            step_seconds=1.2,
            total_seconds=1000.0,
            steps=63,
            end_time=datetime(2026, 11, 1, 10, 0, number % 60, tzinfo=UTC),
        )
        for name, value in parts.items():
            if value is None:
                observation.ClearField(name)
            elif name == "run":
                observation.run.CopyFrom(value)
            elif name == "end_time":
                observation.end_time.FromDatetime(value)
            else:
                setattr(observation, name, value)
        return calibration_pb2.ReportObservationRequest(observation=observation, request_id=request_id)

    return make


async def step_seconds(stub, request) -> float:
    return (await stub.EstimateRun(request)).estimate.time.step_seconds.expected


async def refusal(call, explain):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return explain(refused.value)


@pytest.mark.service_alone("calibration")
async def test_the_next_estimate_moves_towards_what_was_measured(learning, request_of, report_of):
    before = await step_seconds(learning, request_of())
    distances = [abs(1.2 - before)]
    for number in range(1, 9):
        assert (await learning.ReportObservation(report_of(number))).accepted
        distances.append(abs(1.2 - await step_seconds(learning, request_of())))

    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3 * distances[0]


async def test_what_was_learned_is_in_the_revision_of_every_answer(learning, request_of, report_of):
    empty = (await learning.EstimateRun(request_of())).estimate
    reported = await learning.ReportObservation(report_of())
    learned = (await learning.EstimateRun(request_of())).estimate
    info = await learning.GetServerInfo(estimator_pb2.GetServerInfoRequest())

    assert empty.revision.calibration.id == "calibration-empty"
    assert learned.revision.calibration == reported.calibration == info.revision.calibration
    assert learned.revision.calibration.sha256 != empty.revision.calibration.sha256
    assert learned.plan_digest == empty.plan_digest
    assert "calibration" in info.server.features


async def test_an_empty_calibration_answers_as_a_server_without_one(learning, stub, request_of):
    served = (await stub.EstimateRun(request_of())).SerializeToString(deterministic=True)
    assert (await learning.EstimateRun(request_of())).SerializeToString(deterministic=True) == served


async def test_other_devices_and_other_programs_are_not_corrected(learning, request_of, report_of):
    others = [
        request_of({"hardware": {"accelerator": "rtx-3090"}}),
        request_of({"program": {"program": "TRAINING_PROGRAM_TRANSFORMERS"}}),
    ]
    before = [await step_seconds(learning, each) for each in others]
    await learning.ReportObservation(report_of())
    assert [await step_seconds(learning, each) for each in others] == before


async def test_a_calibration_that_has_passed_can_no_longer_be_pinned(learning, request_of, report_of, explain):
    empty = (await learning.EstimateRun(request_of())).estimate.revision
    await learning.ReportObservation(report_of())
    pinned = request_of()
    pinned.pinned.calibration.CopyFrom(empty.calibration)
    refused = await refusal(learning.EstimateRun(pinned), explain)

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "REVISION_UNAVAILABLE")


async def test_the_same_job_and_attempt_count_once(learning, report_of):
    first = await learning.ReportObservation(report_of(request_id="a"))
    again = await learning.ReportObservation(report_of(request_id="a"))
    other_id = await learning.ReportObservation(report_of(request_id="b", step_seconds=9.0))

    assert (first.accepted, again.accepted, other_id.accepted) == (True, False, False)
    assert first.calibration == again.calibration == other_id.calibration


async def test_a_request_id_with_another_body_is_refused(learning, report_of, explain):
    await learning.ReportObservation(report_of(1, request_id="a"))
    refused = await refusal(learning.ReportObservation(report_of(2, request_id="a")), explain)

    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "REQUEST_ID_REUSED")
    assert len((await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())).points) == 1


IMPLAUSIBLE = {
    "nothing measured": ({"step_seconds": None}, "observation"),
    "allocated above reserved": ({"allocated_bytes": 9, "reserved_bytes": 8}, "observation.allocated_bytes"),
    "reserved above the device": ({"reserved_bytes": 9, "device_bytes": 8}, "observation.reserved_bytes"),
    "more than the card has": ({"device_bytes": 40 * 2**30}, "observation"),
    "no steps that took time": ({"steps": 0}, "observation.steps"),
    "steps longer than the run": ({"total_seconds": 30.0}, "observation.step_seconds"),
    "from the future": ({"end_time": datetime(2999, 1, 1, tzinfo=UTC)}, "observation.end_time"),
}


FAR_FROM_THE_PREDICTION = {
    "far too slow": ({"step_seconds": 400.0, "total_seconds": 30_000.0}, "observation.step_seconds"),
    "far too fast": ({"step_seconds": 1e-4}, "observation.step_seconds"),
    "far too small": ({"device_bytes": 2**20}, "observation"),
}


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        *(pytest.param(*case, id=name) for name, case in IMPLAUSIBLE.items()),
        *(
            pytest.param(*case, id=name, marks=pytest.mark.service_alone("figures"))
            for name, case in FAR_FROM_THE_PREDICTION.items()
        ),
    ],
)
async def test_an_implausible_observation_is_refused_and_changes_nothing(learning, report_of, explain, parts, path):
    refused = await refusal(learning.ReportObservation(report_of(**parts)), explain)

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "OBSERVATION_IMPLAUSIBLE")
    assert refused.fields == [path]
    assert (
        await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())
    ).calibration.id == "calibration-empty"


WRONG = {
    "a name that a terminal would obey": ({"job": "jobs/\x1b[31m"}, {}, "INVALID_REQUEST", "observation.job"),
    "an unnamed card": (
        {},
        {"spec": {"hardware": {"unknown_accelerator": {"marketed_memory_gb": 24}}}},
        "INVALID_REQUEST",
        "observation.run.spec.hardware",
    ),
    "a processor without a name": (
        {},
        {"spec": {"hardware": {"cpu": {"cores": 4}}}},
        "INVALID_REQUEST",
        "observation.run.spec.hardware",
    ),
    "another program's run": (
        {},
        {"spec": {"program": {"program": "TRAINING_PROGRAM_UNSLOTH"}}},
        "INVALID_REQUEST",
        "observation.run.spec.program",
    ),
    "a recipe that contradicts itself": (
        {},
        {"spec": {"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}},
        "PREFIX_WITH_CHECKPOINTING",
        "observation.run.spec.gradient_checkpointing",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
async def test_a_wrong_field_is_named(learning, request_of, report_of, explain, case):
    parts, run, reason, path = case
    report = report_of(run=request_of(**run), **parts)
    refused = await refusal(learning.ReportObservation(report), explain)

    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], [path])
    assert refused.reason == reason


@pytest.mark.parametrize(
    "case",
    [
        ({"model": {"name": "llama-3.2-3c"}}, "MODEL_NOT_FOUND"),
        ({"hardware": {"accelerator": "rtx-4091"}}, "ACCELERATOR_NOT_FOUND"),
    ],
    ids=lambda case: case[1],
)
async def test_unknown_names_are_refused(learning, request_of, report_of, explain, case):
    spec, reason = case
    refused = await refusal(learning.ReportObservation(report_of(run=request_of(spec))), explain)
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND.value[0], reason)


@pytest.mark.service_alone("calibration")
async def test_the_median_of_a_few_steps_says_nothing_of_the_next_run(learning, report_of):
    await learning.ReportObservation(report_of(steps=3, device_bytes=12 * 2**30))
    entry = (await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())).entries[0]

    assert not entry.HasField("step_time_factor")
    assert entry.HasField("memory_factor")


@pytest.mark.service_alone("calibration")
async def test_calibration_shows_factors_and_points_with_what_was_predicted(learning, request_of, report_of):
    predicted = await step_seconds(learning, request_of())
    for number in range(1, 7):
        await learning.ReportObservation(report_of(number, step_seconds=1.2 if number < 6 else 12.0))
    found = await learning.GetCalibration(calibration_pb2.GetCalibrationRequest(device="RTX 4090"))

    assert [(entry.device, entry.family) for entry in found.entries] == [("rtx-4090", ""), ("rtx-4090", "llama")]
    whole = found.entries[0]
    assert (whole.observations, whole.outliers) == (6, 1)
    factor = whole.step_time_factor
    assert factor.low < factor.expected < factor.high
    newest = found.points[0]
    assert (newest.job, newest.outlier, newest.method) == ("projects/default/jobs/6", True, method_pb2.METHOD_LORA)
    assert newest.end_time.ToDatetime(UTC) == datetime(2026, 11, 1, 10, 0, 6, tzinfo=UTC)
    assert [point.outlier for point in found.points[1:]] == [False] * 5
    assert all(point.predicted_step_seconds == predicted for point in found.points)


async def test_points_come_in_pages_newest_first(learning, report_of, explain):
    for number in range(1, 6):
        await learning.ReportObservation(report_of(number))
    jobs, token = [], ""
    while True:
        page = await learning.GetCalibration(calibration_pb2.GetCalibrationRequest(page_size=2, page_token=token))
        jobs += [int(point.job.rpartition("/")[2]) for point in page.points]
        token = page.next_page_token
        if not token:
            break
    assert jobs == [5, 4, 3, 2, 1]

    refused = await refusal(
        learning.GetCalibration(calibration_pb2.GetCalibrationRequest(page_token="forged")), explain
    )
    assert refused.reason == "PAGE_TOKEN_INVALID"


async def test_a_page_goes_on_where_it_was_when_newer_points_come(learning, report_of):
    for number in (1, 2, 3):
        await learning.ReportObservation(report_of(number))
    first = await learning.GetCalibration(calibration_pb2.GetCalibrationRequest(page_size=1))
    await learning.ReportObservation(report_of(4))
    second = await learning.GetCalibration(
        calibration_pb2.GetCalibrationRequest(page_size=5, page_token=first.next_page_token)
    )

    assert [point.job[-1] for point in (*first.points, *second.points)] == ["3", "2", "1"]


@pytest.mark.parametrize("device", ["RTX-3090", pytest.param("RTX 3090", marks=pytest.mark.service_alone("names"))])
async def test_reset_forgets_one_device_or_all(learning, request_of, report_of, device):
    empty = (await learning.EstimateRun(request_of())).estimate
    slow = request_of({"hardware": {"accelerator": "rtx-3090"}})
    await learning.ReportObservation(report_of(1))
    await learning.ReportObservation(report_of(2, run=slow, step_seconds=6.0))

    assert (await learning.ResetCalibration(calibration_pb2.ResetCalibrationRequest(device=device))).removed == 1
    left = await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())
    assert [entry.device for entry in left.entries] == ["rtx-4090"]
    done = await learning.ResetCalibration(calibration_pb2.ResetCalibrationRequest())
    assert (done.removed, done.calibration.id) == (1, "calibration-empty")
    assert (await learning.EstimateRun(request_of())).estimate == empty


async def test_a_repeated_reset_forgets_nothing_again(learning, report_of, explain):
    request = calibration_pb2.ResetCalibrationRequest(request_id="a")
    await learning.ReportObservation(report_of(1))
    first = await learning.ResetCalibration(request)
    await learning.ReportObservation(report_of(2))
    again = await learning.ResetCalibration(request)

    assert (first.removed, again.removed) == (1, 1)
    assert len((await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())).points) == 1
    other = calibration_pb2.ResetCalibrationRequest(device="t4", request_id="a")
    assert (await refusal(learning.ResetCalibration(other), explain)).reason == "REQUEST_ID_REUSED"


async def test_an_observation_without_a_time_has_that_of_the_call(learning, report_of):
    await learning.ReportObservation(report_of(end_time=None))
    (point,) = (await learning.GetCalibration(calibration_pb2.GetCalibrationRequest())).points

    assert abs(datetime.now(UTC) - point.end_time.ToDatetime(UTC)).total_seconds() < 60


@pytest.mark.service_alone("process")
async def test_a_server_that_keeps_nothing_says_so(stub, report_of, explain):
    for call in (stub.ReportObservation(report_of()), stub.ResetCalibration(calibration_pb2.ResetCalibrationRequest())):
        refused = await refusal(call, explain)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "CALIBRATION_OFF")
    assert not (await stub.GetCalibration(calibration_pb2.GetCalibrationRequest())).entries


@pytest.mark.service_alone("process")
async def test_a_restart_and_a_program_without_a_server_know_the_same(learning, report_of, tmp_path):
    for number in (3, 1, 2):
        answer = await learning.ReportObservation(report_of(number))
    found = load(tmp_path / "state", KNOWN, estimate)

    assert found.part.sha256 == answer.calibration.sha256
    assert found.correction("rtx-4090", "llama").step_time.observations == 3


@pytest.mark.service_alone("calibration")
async def test_predictions_are_made_anew_for_other_formulas(report_of, tmp_path, monkeypatch):
    first = Learner(tmp_path, KNOWN, estimate)
    await first.report(report_of())
    point = first.calibration.points[0]
    first.close()
    monkeypatch.setattr("finetree_estimator.constants.LOSS_TRAFFIC", 10_000.0)
    monkeypatch.setattr("finetree_estimator.evidence.learner._basis", lambda: "other formulas")

    again = Learner(tmp_path, KNOWN, estimate)
    renewed = again.calibration.points[0]
    again.close()
    assert renewed.predicted_step > 2 * point.predicted_step
    assert (renewed.measured_step, renewed.digest) == (point.measured_step, point.digest)


@pytest.mark.service_alone("process")
async def test_a_program_without_a_server_answers_with_what_a_server_has_learned(
    learning, request_of, report_of, tmp_path
):
    await learning.ReportObservation(report_of())
    served = await learning.EstimateRun(request_of())
    command = [sys.executable, "-m", "finetree_estimator", "--once", "--state-dir", str(tmp_path / "state")]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=json_format.MessageToJson(request_of()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == json_format.MessageToJson(served, preserving_proto_field_name=True) + "\n"
