# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.jobs.retention.policy import KINDS, Limit, read_policy
from finetree_trainer.settings import Settings

DAY = 86_400.0


def test_the_settings_are_for_what_nothing_uses_and_a_file_for_what_differs(tmp_path):
    file = tmp_path / "retention.toml"
    file.write_text(
        '[default]\njobs = { age = "365d" }\ncheckpoints = { age = "30d", bytes = "50GB" }\n'
        '[projects.search]\nartifacts = { bytes = "2GiB" }\n'
    )
    policy = read_policy(Settings(retention_age=90 * DAY, retention_bytes=200 * 10**9, retention_file=file))
    assert policy.limit("default", KINDS["checkpoints"]) == Limit(30 * DAY, 50 * 10**9)
    assert policy.limit("default", KINDS["artifacts"]) == Limit(90 * DAY, 200 * 10**9)
    assert policy.limit("search", KINDS["artifacts"]) == Limit(0.0, 2 * 1024**3)
    assert policy.limit("search", KINDS["checkpoints"]) == Limit(30 * DAY, 50 * 10**9)
    assert policy.limit("search", KINDS["jobs"]) == Limit(365 * DAY)
    assert policy.limit("default", KINDS["events"]).age == 90 * DAY
    plain = read_policy(Settings())
    assert [plain.limit("default", KINDS[name]) for name in ("jobs", "checkpoints", "datasets")] == [Limit()] * 3


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[default]\ncheckpoint = { age = 1 }", "default.checkpoint: is none of jobs, events"),
        ('[default]\nevents = { age = "soon" }', "default.events.age: 'soon' is not a duration"),
        ('[projects.a]\nevents = { bytes = "5 XB" }', "projects.a.events.bytes: '5 XB' is not a size"),
        ("[projects.a]\nevents = { size = 1 }", "projects.a.events.size: is none of age, bytes"),
        ("[default]\nevents = 5", "default.events: is not a table"),
        ("[defaults]", "defaults: is none of default, projects"),
        ("[default", "retention.toml cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_key(tmp_path, content, named):
    file = tmp_path / "retention.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match="retention_file: ") as refused:
        read_policy(Settings(retention_file=file))
    assert named in str(refused.value)
