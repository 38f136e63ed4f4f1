# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2
from finetree_api.trainer.v1 import (
    comparison_pb2,
    evaluation_pb2,
    job_pb2,
    lifecycle_pb2,
    serving_pb2,
    sweep_pb2,
    trainer_pb2,
)
from finetree_api.types.v1 import run_spec_pb2, training_data_pb2, weights_pb2
from finetree_runtime.errors import PermissionDenied
from finetree_runtime.server.access.authorizer import authorize
from finetree_runtime.server.access.requirement import requirement_of
from finetree_runtime.server.access.roles import EVERYTHING, Grants, Role
from finetree_runtime.server.context import Principal

TRAINER = "/finetree_api.trainer.v1.TrainerService/"
ESTIMATOR = "/finetree_api.estimator.v1.EstimatorService/"
THEIRS = "projects/b/"


def principal(operator=False, project="a", **roles: str):
    return Principal("ci", project, Grants({name: Role[role] for name, role in roles.items()}, operator=operator))


def refusal(method, request, caller):
    """What a call is refused with; None where it is let in."""
    try:
        authorize(requirement_of(method), request, caller)
    except PermissionDenied as error:
        return error.reason, error.metadata.get("role"), error.metadata.get("project")
    return None


def spec(dataset="", checkpoint=""):
    found = run_spec_pb2.RunSpec(dataset=training_data_pb2.DatasetSource(name=dataset))
    if checkpoint:
        found.init_from.CopyFrom(weights_pb2.TrainedWeights(checkpoint=checkpoint))
    return found


def template(**train: str):
    return job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=spec(**train)))


def subjects(*weights: str):
    task = evaluation_pb2.EvaluateTask()
    for each in weights:
        task.subjects.add().weights.artifact = each
    return job_pb2.JobTemplate(evaluate=task)


def targets(*weights: str):
    task = serving_pb2.ServeTask()
    for each in weights:
        task.targets.add(name="x").weights.checkpoint = each
    return job_pb2.JobTemplate(serve=task)


NESTED = {
    "parent": (TRAINER + "CreateJob", trainer_pb2.CreateJobRequest(parent="projects/b")),
    "dataset": (TRAINER + "CreateJob", trainer_pb2.CreateJobRequest(job=template(dataset=THEIRS + "datasets/1"))),
    "init_from": (
        TRAINER + "CreateJob",
        trainer_pb2.CreateJobRequest(job=template(checkpoint=THEIRS + "jobs/1/checkpoints/2")),
    ),
    "export": (
        TRAINER + "CreateJob",
        trainer_pb2.CreateJobRequest(
            job=job_pb2.JobTemplate(export=job_pb2.ExportTask(artifact=THEIRS + "jobs/1/artifacts/adapter"))
        ),
    ),
    "one of two subjects": (
        TRAINER + "ValidateJob",
        trainer_pb2.ValidateJobRequest(job=subjects("jobs/1/artifacts/a", THEIRS + "jobs/1/artifacts/a")),
    ),
    "targets": (TRAINER + "CreateJob", trainer_pb2.CreateJobRequest(job=targets(THEIRS + "jobs/1/checkpoints/2"))),
    "sweep": (
        TRAINER + "CreateSweep",
        sweep_pb2.CreateSweepRequest(sweep=sweep_pb2.SweepTemplate(job=template(dataset=THEIRS + "datasets/1"))),
    ),
    "compared": (TRAINER + "CompareJobs", comparison_pb2.CompareJobsRequest(names=["1", THEIRS + "jobs/2"])),
    "before": (TRAINER + "MoveJob", lifecycle_pb2.MoveJobRequest(name="1", before=THEIRS + "jobs/2")),
    "loaded": (
        TRAINER + "LoadTarget",
        serving_pb2.LoadTargetRequest(
            job="1",
            target=serving_pb2.ServeTarget(weights=weights_pb2.TrainedWeights(artifact=THEIRS + "jobs/1/artifacts/a")),
        ),
    ),
    "estimated": (ESTIMATOR + "EstimateRun", estimate_pb2.EstimateRunRequest(spec=spec(THEIRS + "datasets/1"))),
    "one row of a batch": (
        ESTIMATOR + "BatchEstimateRuns",
        estimator_pb2.BatchEstimateRunsRequest(
            rows=[
                estimator_pb2.BatchEstimateRow(key="x"),
                estimator_pb2.BatchEstimateRow(
                    key="y", request=estimate_pb2.EstimateRunRequest(spec=spec(THEIRS + "datasets/1"))
                ),
            ]
        ),
    ),
}


@pytest.mark.parametrize(("method", "request_"), NESTED.values(), ids=NESTED)
def test_a_name_of_another_project_is_found_wherever_it_stands(method, request_):
    role = requirement_of(method).role
    assert refusal(method, request_, principal(a="ADMIN")) == ("ROLE_MISSING", role.word, "b")
    assert refusal(method, request_, principal(a="ADMIN", b=role.name)) is None
    assert refusal(method, request_, Principal("x", "a", Grants({"*": role}))) is None


def test_each_role_includes_those_before_it_and_operator_stands_apart():
    get = TRAINER + "GetJob", trainer_pb2.GetJobRequest(name="1")
    create = TRAINER + "CreateJob", trainer_pb2.CreateJobRequest()
    reset = ESTIMATOR + "ResetCalibration", None
    assert refusal(*get, principal(a="ESTIMATE")) == ("ROLE_MISSING", "read", "a")
    assert [refusal(*get, principal(a=role)) for role in ("READ", "TRAIN", "ADMIN")] == [None] * 3
    assert refusal(*create, principal(a="READ")) == ("ROLE_MISSING", "train", "a")
    assert refusal(*create, principal(operator=True)) == ("ROLE_MISSING", "train", "a")
    assert refusal(*reset, principal(a="ADMIN")) == ("ROLE_MISSING", "operator", None)
    assert refusal(*reset, principal(operator=True)) is None


def test_an_id_alone_and_no_parent_mean_the_callers_own_project():
    caller = principal(project="b", a="ADMIN")
    for method, request_ in (
        ("GetJob", trainer_pb2.GetJobRequest(name="1")),
        ("ListJobs", trainer_pb2.ListJobsRequest()),
        ("GetJob", trainer_pb2.GetJobRequest(name="projects/")),
        ("MoveJob", lifecycle_pb2.MoveJobRequest(name="projects/a/jobs/1", before="2")),
    ):
        assert refusal(TRAINER + method, request_, caller)[2] == "b"
    assert refusal(TRAINER + "GetJob", trainer_pb2.GetJobRequest(name="projects/a/jobs/1"), caller) is None


def test_what_belongs_to_no_project_needs_the_role_in_any_or_an_operator():
    ask = ESTIMATOR + "EstimateRun", estimate_pb2.EstimateRunRequest(spec=spec())
    assert refusal(*ask, principal(z="ESTIMATE")) is None
    assert refusal(*ask, principal(operator=True)) is None
    assert refusal(*ask, principal()) == ("ROLE_MISSING", "estimate", None)
    info = ESTIMATOR + "GetServerInfo", estimator_pb2.GetServerInfoRequest()
    assert refusal(*info, principal()) is None


def test_an_rpc_of_which_the_contract_says_nothing_is_refused_to_everybody():
    for method in ("/finetree_api.worker.v1.WorkerService/Attach", "/other.Service/Get", "Get", ""):
        assert requirement_of(method) is None
        assert refusal(method, None, Principal("root", grants=EVERYTHING))[0] == "RPC_WITHOUT_ROLE"


def test_a_principal_to_whom_nothing_was_granted_may_do_nothing():
    assert refusal(TRAINER + "ListJobs", trainer_pb2.ListJobsRequest(), Principal("x")) is not None
