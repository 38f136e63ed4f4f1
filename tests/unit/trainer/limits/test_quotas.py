# SPDX-License-Identifier: Apache-2.0
"""Which limit keeps a waiting job from starting, by jobs that run and the devices that they hold."""

import tomllib
from types import SimpleNamespace

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.config.toml_table import TomlTable
from finetree_runtime.server.limits.file import parse
from finetree_trainer.limits.quotas import Quotas

FILE = """
[projects.p]
devices = 4
weight = 3

[principals.me]
running_jobs = 3
"""


@pytest.fixture
def quotas():
    return Quotas(SimpleNamespace(table=parse(TomlTable("limits_file", tomllib.loads(FILE)), {})))


@pytest.fixture
def running(new_row):
    def row(uid, devices, **changes):  # noqa: ANN003, ANN202 - fields of the row
        placed = job_pb2.Job(placements=[job_pb2.Placement(node="n", device_ids=[f"cuda:{n}" for n in range(devices)])])
        return new_row(uid, snapshot=placed.SerializeToString(), **({"state": job_pb2.JOB_STATE_RUNNING} | changes))

    return row


def test_devices_of_running_jobs_count_until_the_attempt_is_over(quotas, running, new_row):
    row = running("a", 3, attempt=1)
    quotas.on_change(row)
    quotas.on_change(row)
    assert (quotas.devices("projects/p"), quotas.running("principals/me")) == (3, 1)
    held = quotas.held_back(new_row("b"), 2)
    assert (held.limit, held.subject, held.value, held.used, held.needed) == ("devices", "projects/p", 4, 3, 2)
    assert str(held).endswith(
        "may have 4 devices at once and this job needs 2 of them; it starts when so many are left"
    )
    assert quotas.held_back(new_row("b"), 1) is None
    assert quotas.held_back(new_row("b", project="other"), 2) is None
    quotas.on_change(running("a", 1, attempt=2))
    assert quotas.devices("projects/p") == 1
    quotas.on_change(running("a", 1, attempt=2, state=job_pb2.JOB_STATE_PAUSED))
    assert (quotas.devices("projects/p"), quotas.running("projects/p")) == (0, 0)


def test_what_prepares_holds_no_device_but_is_a_running_job(quotas, running, new_row):
    for uid in "abc":
        quotas.on_change(running(uid, 1, task=job_pb2.TASK_KIND_PREPARE, project="other"))
    assert quotas.devices("projects/other") == 0
    assert quotas.held_back(new_row("d", project="other"), 0).limit == "running_jobs"
    assert quotas.held_back(running("a", 1), 1) is None, "it runs already"


def test_who_can_never_start_is_told_so(quotas, new_row):
    assert str(quotas.held_back(new_row("a"), 8)) == (
        "projects/p may have 4 devices at once and this job needs 8; it starts when the limit is raised"
    )


def test_weights_exist_for_all_projects_or_for_none(quotas):
    assert (quotas.weight("p"), quotas.weight("other")) == (3.0, 1.0)
    assert Quotas(SimpleNamespace(table=parse(TomlTable("limits_file", {}), {}))).weight("p") is None
