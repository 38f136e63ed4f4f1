# SPDX-License-Identifier: Apache-2.0
"""All checks together: a broken one is a finding, and services that are down are no reason to stop."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_cli.commands.doctor import SUBJECTS
from finetree_cli.doctor import examination
from finetree_cli.doctor.finding import Installation, Level
from finetree_cli.doctor.network import clock
from finetree_cli.doctor.services import skew
from finetree_cli.options.command import Settings


def test_the_command_offers_every_subject():
    assert tuple(examination.CHECKS) == SUBJECTS


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch):
    def broken(_installation: Installation) -> None:
        raise OSError("broken")

    monkeypatch.setitem(examination.CHECKS, "gpu", broken)
    installation = Installation(Path("/nonexistent"), Settings(), offline=True)
    found = list(examination.examine(installation, ("gpu", "network")))
    assert [(each.subject, each.level) for each in found] == [("gpu", Level.PROBLEM), ("network", Level.OK)]
    assert "OSError: broken" in found[0].found


def test_a_server_that_is_named_and_down_is_a_problem():
    done = CliRunner().invoke(cli, ["doctor", "--only", "services", "--address", "127.0.0.1:1"])
    assert done.output.count("problem  services") == 3
    assert "127.0.0.1:1 does not answer" in done.output


def test_versions_that_differ_are_a_warning():
    assert skew("trainer", "host:1", "0.1", "0.2").level is Level.WARNING
    assert skew("trainer", "host:1", "0.2", "0.2").level is Level.OK


def test_a_clock_that_is_off_is_a_warning():
    now = datetime.now(UTC)
    assert clock(now - timedelta(minutes=3), now).found.startswith("this machine's clock is 180 s ahead of")
    assert clock(now, now).level is Level.OK
