# SPDX-License-Identifier: Apache-2.0
"""The limits file: what it states, what is refused, and what happens when it changes."""

import tomllib
from decimal import Decimal

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.config.toml_table import TomlTable
from finetree_runtime.server.limits import file as limits_file
from finetree_runtime.server.limits.file import LimitsFile, parse
from finetree_runtime.server.limits.table import Budget, Caller

WHOLE = """
[default.project]
queued_jobs = 100
dataset_bytes = "64GiB"

[default.principal]
requests_per_second = 2.5
burst = 10

[projects.search]
running_jobs = 0
monthly_cost = "500 USD"
unpriced_trainings = "allow"
devices = 4
weight = 2.5
preemptible = true

[principals."ci@example.com"]
upload_bytes_per_day = "1GB"
"""


def table(text, usual=None):
    return parse(TomlTable("limits_file", tomllib.loads(text)), usual or {})


def test_what_a_subject_has_of_its_own_goes_before_the_default_limit_by_limit():
    limits = table(WHOLE, {"projects": {"dataset_bytes": 7, "watchers": 3}})
    assert limits.value("queued_jobs", "projects/search") == 100
    assert limits.value("running_jobs", "projects/search") == 0
    assert limits.value("running_jobs", "projects/other") is None
    assert limits.value("dataset_bytes", "projects/other") == 64 * 1024**3
    assert limits.value("watchers", "projects/search") == 3
    assert limits.value("devices", "projects/search") == 4
    assert limits.value("weight", "projects/search") == 2.5
    assert limits.value("preemptible", "projects/search") is True
    assert limits.value("monthly_cost", "projects/search") == Budget(Decimal(500), "USD")
    assert limits.value("upload_bytes_per_day", "principals/ci@example.com") == 10**9
    assert limits.value("requests_per_second", "principals/ci@example.com") == 2.5
    assert Caller("ci", "search").subjects == ("projects/search", "principals/ci")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[defaults.project]\n", "defaults"),
        ("[default.team]\n", "default.team"),
        ("[default.project]\nrunning_job = 1", "default.project.running_job"),
        ("[projects.a]\nrunning_jobs = -1", "projects.a.running_jobs"),
        ("[projects.a]\nrunning_jobs = 'many'", "projects.a.running_jobs"),
        ("[projects.a]\nrunning_jobs = true", "projects.a.running_jobs"),
        ("[projects.a]\nmonthly_cost = 500", "projects.a.monthly_cost"),
        ("[projects.a]\nmonthly_cost = '500 dollars'", "projects.a.monthly_cost"),
        ("[projects.a]\nmonthly_cost = '-5 USD'", "projects.a.monthly_cost"),
        ("[projects.a]\nunpriced_trainings = 'maybe'", "projects.a.unpriced_trainings"),
        ("[principals.a]\nunpriced_trainings = 'allow'", "principals.a.unpriced_trainings"),
        ("[projects.a]\nweight = 0", "projects.a.weight"),
        ("[projects.a]\nweight = inf", "projects.a.weight"),
        ("[projects.a]\npreemptible = 'yes'", "projects.a.preemptible"),
        ("[principals.a]\nweight = 2", "principals.a.weight"),
        ("[principals.a]\nrequests_per_second = 0", "principals.a.requests_per_second"),
        ("[principals.a]\ndataset_bytes = '5 parsec'", "principals.a.dataset_bytes"),
        ("projects = 3", "projects"),
        ("[projects]\na = 3", "projects.a"),
    ],
    ids=lambda value: value.replace("\n", " "),
)
def test_a_mistake_is_named_by_its_key(text, key):
    with pytest.raises(SettingsError, match=f"limits_file: {key}: "):
        table(text)


@pytest.mark.parametrize("content", [b"[projects", b"\xff", None], ids=["no TOML", "no text", "no file"])
def test_a_file_that_cannot_be_read_prevents_the_start(tmp_path, content):
    path = tmp_path / "limits.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"limits\.toml cannot be read"):
        LimitsFile(path)


def test_a_changed_file_holds_at_once_and_a_wrong_one_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits_file, "LOOK_SECONDS", 0.0)
    path = tmp_path / "limits.toml"
    path.write_text("[projects.a]\nrunning_jobs = 1")
    limits = LimitsFile(path)
    for text, expected in (
        ("[projects.a]\nrunning_jobs = 22", 22),
        ("[projects.a]\nrunning_jobs = 'two'", 22),
        ("[projects.a]\nrunning_jobs = 333", 333),
    ):
        path.write_text(text)
        assert limits.table.value("running_jobs", "projects/a") == expected
    path.unlink()
    assert limits.table.value("running_jobs", "projects/a") == 333
    errors = [line for line in capsys.readouterr().err.splitlines() if "limits_file_refused" in line]
    assert len(errors) == 2
    assert "projects.a.running_jobs" in errors[0]


def test_without_a_file_the_settings_of_the_service_hold():
    assert LimitsFile(None, {"principals": {"watchers": 5}}).table.value("watchers", "principals/a") == 5
