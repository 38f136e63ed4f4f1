# SPDX-License-Identifier: Apache-2.0
"""Who workers run as, and what of the data folder that user may use."""

import os
import pwd
import stat
import sys
from pathlib import Path

import pytest
from finetree_data.confinement import privileges
from finetree_runtime.config.settings import SettingsError
from finetree_trainer import worker_user
from finetree_trainer.__main__ import main
from finetree_trainer.worker_user import WorkerUser, lend, own_folder, passage

USER = WorkerUser("54321", 54321, 54322)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the setting as a root service does."""
    monkeypatch.setattr(worker_user.os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "effective", lambda: (1 << 41) - 1)


def shown(path: Path) -> tuple[int, int, str]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.filemode(found.st_mode)


def test_without_the_setting_workers_run_as_the_service():
    assert WorkerUser.find("") is None


@pytest.mark.usefixtures("root")
def test_a_name_and_numbers_are_found():
    nobody = pwd.getpwnam("nobody")
    assert WorkerUser.find("nobody") == WorkerUser("nobody", nobody.pw_uid, nobody.pw_gid)
    assert WorkerUser.find(str(nobody.pw_uid)) == WorkerUser("nobody", nobody.pw_uid, nobody.pw_gid)
    assert WorkerUser.find("nobody:54322") == WorkerUser("nobody", nobody.pw_uid, 54322)
    assert WorkerUser.find("3999999999:54322") == WorkerUser("3999999999", 3999999999, 54322)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-user", "this machine has no user 'no-such-user'; make one, or give a number as UID:GID"),
        ("nobody:no-such-group", "this machine has no group 'no-such-group'; make one, or give a number"),
        ("3999999999", "user 3999999999 has no entry on this machine, hence no group: name one"),
        ("root", "workers must not be root"),
        ("0", "workers must not be root"),
        ("0:54322", "workers must not be root"),
        ("nobody:0", "nor of root's group"),
        ("nobody:root", "nor of root's group"),
        # To setresuid this number means "as it is".
        ("4294967295:1", "a user is a number from 1 to 4294967294"),
        ("1:99999999999999999999999", "a group is a number"),
        ("-1", "this machine has no user '-1'"),
        (":54322", "this machine has no user ''"),
        ("nobody:", "this machine has no group ''"),
        ("\u0661", "a user is a number"),
    ],
)
def test_who_is_no_such_user_is_refused_with_what_to_do(text, said):
    with pytest.raises(SettingsError) as caught:
        WorkerUser.find(text)
    assert caught.value.reason == "WORKER_USER_INVALID"
    assert str(caught.value).startswith("worker_user: ")
    assert said in str(caught.value)


def test_a_start_with_a_wrong_user_ends_with_one_line(tmp_path, monkeypatch, capsys):
    flags = ["finetree_trainer", "--data-dir", str(tmp_path / "data"), "--worker-user", "no-such-user"]
    monkeypatch.setattr(sys, "argv", flags)
    assert main() == 2
    assert capsys.readouterr().err.startswith("WORKER_USER_INVALID: worker_user: this machine has no user")
    assert not (tmp_path / "data").exists()


def test_only_a_root_service_runs_workers_as_somebody_else(monkeypatch):
    monkeypatch.setattr(worker_user.os, "geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="must run as root") as caught:
        WorkerUser.find("nobody")
    assert caught.value.reason == "WORKER_USER_NEEDS_ROOT"


@pytest.mark.usefixtures("root")
def test_root_without_its_capabilities_is_told_which(monkeypatch):
    monkeypatch.setattr(privileges, "effective", lambda: ((1 << 41) - 1) & ~(1 << 0 | 1 << 7))
    with pytest.raises(SettingsError, match="root lacks CAP_CHOWN, CAP_SETUID here") as caught:
        WorkerUser.find("nobody")
    assert caught.value.reason == "WORKER_USER_NEEDS_ROOT"


def test_without_a_user_every_folder_is_the_services_alone(tmp_path):
    for make in (passage, own_folder):
        assert stat.S_IMODE(make(tmp_path / make.__name__, None).stat().st_mode) == 0o700


@as_root
def test_folders_and_files_are_closed_to_all_but_the_workers(tmp_path):
    for _ in range(2):
        assert shown(passage(tmp_path / "a/b", USER)) == (0, USER.gid, "drwx--x---")
        assert shown(own_folder(tmp_path / "a/c", USER)) == (USER.uid, USER.gid, "drwx------")
    (tmp_path / "rows").write_text("{}")
    lend(tmp_path / "rows", USER)
    assert shown(tmp_path / "rows") == (0, USER.gid, "-rw-r-----")


@as_root
@pytest.mark.parametrize("make", [passage, own_folder])
def test_a_link_in_the_place_of_a_folder_gives_away_nothing(tmp_path, make):
    (tmp_path / "secret").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="link"):
        make(tmp_path / "link", USER)
    assert shown(tmp_path / "secret") == (0, 0, "drwx------")
