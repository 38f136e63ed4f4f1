# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import json
import os

import pytest
from finetree_runtime.errors import Unavailable
from finetree_runtime.server.access import __main__ as program
from finetree_runtime.server.access import changes, file
from finetree_runtime.server.access.file import AccessFile
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted, GrantRow
from finetree_runtime.server.access.token import is_token, token_hash

SEARCH = Granted("search", Grants({"search": Role.TRAIN}))


def ask(capsys, folder, *words: str):
    """The exit code of the program, its answer and its last word."""
    code = program.main([*words, "--access-dir", str(folder)])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


def test_a_token_is_shown_once_and_stored_as_its_hash(tmp_path, capsys):
    folder = tmp_path / "access"
    _, made, _ = ask(capsys, folder, "create", "ci", "--project", "search", "--role", "train", "--expires", "90d")
    assert is_token(made["token"])
    content = (folder / file.NAME).read_text(encoding="utf-8")
    assert made["token"] not in content
    assert token_hash(made["token"]) in content
    _, listed, _ = ask(capsys, folder, "list")
    assert made["token"] not in json.dumps(listed)
    assert token_hash(made["token"]) not in json.dumps(listed)
    (row,) = listed["tokens"]
    assert row == {key: value for key, value in made.items() if key != "token"}
    assert (row["principal"], row["project"], row["roles"]) == ("ci", "search", {"search": "train"})
    assert row["state"] == "active"
    assert row["expire_time"] > row["create_time"]


def test_only_the_owner_may_read_the_file_and_its_folder(tmp_path):
    changes.create_token(tmp_path / "access", "ci", SEARCH, expires=None)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "access", *sorted((tmp_path / "access").iterdir()))]
    assert modes == [0o700, 0o600, 0o600]


def test_a_change_is_seen_at_the_next_look(tmp_path):
    row, text = changes.create_token(tmp_path, "ci", SEARCH, expires=None)
    access = AccessFile(tmp_path)
    assert access.token(token_hash(text)).revoke_time is None
    changes.revoke_token(tmp_path, row.id)
    assert access.token(token_hash(text)).revoke_time is not None
    other, other_text = changes.create_token(tmp_path, "other", SEARCH, expires=None)
    assert access.token(token_hash(other_text)) == other
    assert access.token(token_hash("ft_unknown")) is None


def test_a_token_that_is_revoked_twice_keeps_the_first_time_and_no_other_changes(tmp_path, capsys):
    _, made, _ = ask(capsys, tmp_path, "create", "ci", "--operator", "--expires", "never")
    _, kept, _ = ask(capsys, tmp_path, "create", "cd", "--project", "*", "--role", "admin", "--also", "search=read")
    first = ask(capsys, tmp_path, "revoke", made["id"])
    assert first == ask(capsys, tmp_path, "revoke", made["id"])
    assert first[1]["state"] == "revoked"
    _, listed, _ = ask(capsys, tmp_path, "list")
    assert [row["state"] for row in listed["tokens"]] == ["revoked", "active"]
    assert listed["tokens"][1]["roles"] == {"*": "admin", "search": "read"}
    assert kept["project"] == "search"


def test_what_other_principals_may_do_is_united(tmp_path, capsys):
    ask(capsys, tmp_path, "grant", "oidc-group", "ml", "--project", "search", "--role", "read")
    ask(
        capsys, tmp_path, "grant", "oidc-group", "leads", "--project", "search", "--role", "admin", "--also", "ads=read"
    )
    ask(capsys, tmp_path, "grant", "certificate", "ml", "--operator")
    access = AccessFile(tmp_path)
    found = access.grants_of("oidc-group", ["ml", "leads", "elsewhere"])
    assert found == Granted("search", Grants({"search": Role.ADMIN, "ads": Role.READ}))
    assert access.grants_of("certificate", ["ml"]).grants == Grants(operator=True)
    assert access.grants_of("oidc-subject", ["ml"]) is None
    ask(capsys, tmp_path, "ungrant", "oidc-group", "leads")
    assert access.grants_of("oidc-group", ["ml", "leads"]).grants.roles == {"search": Role.READ}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("create", "ci"), "SETTING_INVALID: --project"),
        (("create", "c i", "--operator"), "SETTING_INVALID: NAME"),
        (("create", "local", "--operator"), "SETTING_INVALID: NAME"),
        (("create", "ci", "--project", "Search"), "SETTING_INVALID: --project"),
        (("create", "ci", "--project", "search", "--role", "operator"), "SETTING_INVALID: --role"),
        (("create", "ci", "--project", "search", "--role", "reader"), "SETTING_INVALID: --role"),
        (("create", "ci", "--also", "search"), "SETTING_INVALID: --also"),
        (("create", "ci", "--operator", "--expires", "0d"), "SETTING_INVALID: --expires"),
        (("create", "ci", "--operator", "--expires", "soon"), "SETTING_INVALID: --expires"),
        (("revoke", "tok_none"), "TOKEN_NOT_FOUND"),
        (("ungrant", "oidc-group", "none"), "GRANT_NOT_FOUND"),
        (("grant", "group", "ml", "--operator"), "SETTING_INVALID"),
    ],
)
def test_a_wrong_command_changes_nothing(tmp_path, capsys, words, reason):
    ask(capsys, tmp_path, "create", "first", "--operator")
    before = (tmp_path / file.NAME).read_bytes()
    code, answer, said = ask(capsys, tmp_path, *words)
    assert (code, answer) == (2, None)
    assert said.startswith(reason)
    assert (tmp_path / file.NAME).read_bytes() == before


DAMAGE = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "another version": lambda text: text.replace('"version": 1', '"version": 2'),
    "no list": lambda _: '{"version": 1, "tokens": {}}',
    "unknown key": lambda text: text.replace('"grants"', '"grant"'),
    "a role that is none": lambda text: text.replace('"train"', '"root"'),
    "no hash": lambda text: text.replace('"sha256": "', '"sha256": "x'),
    "a missing time": lambda text: text.replace('"revoke_time"', '"revoked"'),
    "a time without zone": lambda text: text.replace('Z"', '"'),
    "not an object": lambda _: "[]",
    "not JSON's strings": lambda text: text.replace('"ci"', "7"),
    "deep": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_lets_nobody_in_and_no_command_overwrites_it(tmp_path, capsys, damage):
    _, text = changes.create_token(tmp_path, "ci", SEARCH, expires=None)
    path = tmp_path / file.NAME
    access, sound = AccessFile(tmp_path), path.read_text(encoding="utf-8")
    assert access.token(token_hash(text)) is not None
    path.write_text(damage(sound), encoding="utf-8")
    with pytest.raises(Unavailable) as refused:
        access.token(token_hash(text))
    assert refused.value.reason == "ACCESS_UNAVAILABLE"
    assert refused.value.retry_delay
    assert "access_file_unusable" in capsys.readouterr().err
    code, _, said = ask(capsys, tmp_path, "create", "other", "--operator")
    assert (code, said.partition(":")[0]) == (2, "ACCESS_FILE_UNUSABLE")
    assert path.read_text(encoding="utf-8") == damage(sound)
    path.write_text(sound, encoding="utf-8")
    assert access.token(token_hash(text)) is not None


@pytest.mark.parametrize("words", [["list"], ["revoke", "tok_1"], ["ungrant", "oidc-group", "ml"]], ids=" ".join)
def test_a_folder_without_a_file_is_named_with_what_makes_one_and_is_not_made(tmp_path, capsys, words):
    code, _, said = ask(capsys, tmp_path / "missing", *words)
    assert (code, said.partition(":")[0]) == (2, "ACCESS_FILE_UNUSABLE")
    assert "`finetree tokens create NAME --access-dir DIR`" in said
    assert not (tmp_path / "missing").exists()


def test_a_file_that_is_gone_or_that_others_may_write_lets_nobody_in(tmp_path):
    _, text = changes.create_token(tmp_path, "ci", SEARCH, expires=None)
    access, path = AccessFile(tmp_path), tmp_path / file.NAME
    for spoil in (lambda: path.chmod(0o620), path.unlink):
        assert access.problem == ""
        spoil()
        with pytest.raises(Unavailable):
            access.table()
        assert access.problem
        if path.exists():
            path.chmod(0o600)
    assert text.startswith("ft_")


def test_two_tokens_of_one_hash_are_damage(tmp_path):
    changes.create_token(tmp_path, "ci", SEARCH, expires=None)
    content = json.loads((tmp_path / file.NAME).read_text(encoding="utf-8"))
    content["tokens"].append({**content["tokens"][0], "id": "tok_other"})
    (tmp_path / file.NAME).write_text(json.dumps(content), encoding="utf-8")
    assert "same sha256" in AccessFile(tmp_path).problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_is_the_services(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    changes.create_token(tmp_path, "ci", SEARCH, expires=None)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(12345, 12345)}


def test_writers_wait_for_each_other(tmp_path):
    """Without the lock, each of these would begin with the table of before the others."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: changes.create_token(tmp_path, f"p{n}", SEARCH, expires=None)[0], range(40)))
    assert {row.id for row in AccessFile(tmp_path).table().tokens} == {row.id for row in made}
    assert {path.name for path in tmp_path.iterdir()} == {file.NAME, file.LOCK}


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    row, _ = changes.create_token(tmp_path, "ci", SEARCH, expires=None)

    def full(_handle) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(changes.SettingsError) as refused:
        changes.set_grant(tmp_path, GrantRow("oidc-group", "ml", SEARCH))
    assert refused.value.reason == "ACCESS_FILE_UNUSABLE"
    assert [each.id for each in AccessFile(tmp_path).table().tokens] == [row.id]
    assert {path.name for path in tmp_path.iterdir()} == {file.NAME, file.LOCK}
