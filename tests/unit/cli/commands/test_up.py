# SPDX-License-Identifier: Apache-2.0
"""The ports of `finetree up`, and what it gives to the services."""

from pathlib import Path

from finetree_cli.commands import up


def test_ports():
    assert up.Ports().convert("auto", None, None) == {"estimator": 0, "recommender": 0, "trainer": 0}
    assert up.Ports().convert("1,2,3", None, None) == {"recommender": 1, "estimator": 2, "trainer": 3}


def test_audit_and_limits_are_given_as_the_services_have_them(tmp_path, monkeypatch):
    from finetree_runtime.config.settings import ServiceSettings, load

    monkeypatch.chdir(tmp_path)
    flags = up.service_flags(Path("audit"), "all", Path("limits.toml"), audit_required=True)
    found = load(ServiceSettings, flags, {}, "FINETREE_ESTIMATOR")
    assert (found.audit_dir, found.audit, found.audit_required) == (tmp_path / "audit", "all", True)
    assert found.limits_file == tmp_path / "limits.toml"


def test_what_is_not_given_is_left_to_the_environment():
    assert up.service_flags(None, None, None, audit_required=False) == ()
