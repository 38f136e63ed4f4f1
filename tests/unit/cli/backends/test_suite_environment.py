# SPDX-License-Identifier: Apache-2.0
"""The environment of the services that a suite starts."""

from finetree.config.keys import KEYS
from finetree_cli.backends.suite import Suite


def test_services_do_not_get_the_settings_of_clients(monkeypatch, tmp_path):
    variables = {"FINETREE_PROFILE", *(key.variable for key in KEYS.values())}
    for name in variables | {"FINETREE_TRAINER_DATA_DIR"}:
        monkeypatch.setenv(name, "x")
    passed_on = Suite(tmp_path)._environment()
    assert variables & passed_on.keys() == set()
    assert {"PATH", "FINETREE_TRAINER_DATA_DIR"} <= passed_on.keys()
