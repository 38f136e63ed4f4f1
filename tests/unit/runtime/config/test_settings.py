# SPDX-License-Identifier: Apache-2.0
"""Where a setting comes from, and what is said of a bad one."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from finetree_runtime.config.settings import (
    Duration,
    Secret,
    SecretUrl,
    ServiceSettings,
    SettingsError,
    load,
    required,
    setting,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path = setting(Path("data"), "Folder of everything.")
    grace: Duration = setting(10.0, "Time to stop.")
    workers: int = setting(2, "Number of workers.")
    ratio: float = setting(0.5, "A share.")
    roots: tuple[str, ...] = setting((), "Folders that may be read.")
    verbose: bool = setting(default=False, text="Say more.")
    level: Literal["low", "high"] = setting("low", "How high.")
    key: Secret = setting(Secret(), "Key of the tokens.")
    cert: Path | None = setting(None, "Certificate.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needy:
    data_dir: Path = required("Folder of everything.")
    key: Secret = required("Key of the tokens.")


def of(*argv: str, kind=Settings, **env: str):
    return load(kind, argv, env, "FINETREE_TEST")


def failure(*argv: str, kind=Settings, **env: str):
    with pytest.raises(SettingsError) as caught:
        of(*argv, kind=kind, **env)
    return caught.value.reason, str(caught.value)


def test_defaults():
    assert of() == Settings()


def test_flags_win_over_the_environment_over_the_file_over_defaults(tmp_path):
    file = tmp_path / "finetree.toml"
    file.write_text('workers = 3\nratio = 0.25\ngrace = "1m"\n')
    found = of("--config", str(file), "--workers", "5", FINETREE_TEST_WORKERS="4", FINETREE_TEST_RATIO="0.75")
    assert (found.workers, found.ratio, found.grace, found.data_dir) == (5, 0.75, 60.0, Path("data"))
    assert of(FINETREE_TEST_CONFIG=str(file)).workers == 3


def test_every_type_from_flags():
    found = of(
        *("--data-dir", "/srv/x", "--grace", "250ms", "--roots", "/a,/b", "--roots", "/c"),
        *("--verbose", "--cert", "c.pem", "--level", "high"),
    )
    assert found.data_dir == Path("/srv/x")
    assert found.grace == 0.25
    assert found.roots == ("/a", "/b", "/c")
    assert found.verbose
    assert found.cert == Path("c.pem")
    assert found.level == "high"


def test_every_type_from_the_file(tmp_path):
    file = tmp_path / "finetree.toml"
    file.write_text('roots = ["/a", "/b"]\nverbose = true\ngrace = 3\nratio = 1\nkey = "hidden"\n')
    found = of("--config", str(file))
    assert (found.roots, found.verbose, found.grace, found.ratio) == (("/a", "/b"), True, 3.0, 1.0)
    assert found.key.reveal() == "hidden"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5s", 1.5), ("250ms", 0.25), ("15m", 900), ("2h", 7200), ("7d", 604800)],
)
def test_durations(text, seconds):
    assert of(FINETREE_TEST_GRACE=text).grace == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("ON", True), ("no", False), ("false", False)]
)
def test_booleans_of_the_environment(text, value):
    assert of(FINETREE_TEST_VERBOSE=text).verbose is value


def test_a_flag_takes_a_boolean_back():
    assert not of("--no-verbose", FINETREE_TEST_VERBOSE="true").verbose


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("grace", text) for text in ("soon", "-1", "1w", "", "inf")),
        *(("workers", text) for text in ("two", "1.5", "")),
        *(("ratio", text) for text in ("half", "nan", "inf")),
        ("verbose", "perhaps"),
        ("level", "middle"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_its_flag(field, text):
    variable = f"FINETREE_TEST_{field.upper()}"
    assert failure(**{variable: text}) == ("SETTING_INVALID", failure(**{variable: text})[1])
    assert failure(**{variable: text})[1].startswith(f"{variable}: {text!r} is n")
    if field != "verbose":
        assert failure(f"--{field}={text}")[1].startswith(f"--{field}: {text!r} is n")


def test_a_bad_value_of_the_file_is_named_with_its_key(tmp_path):
    file = tmp_path / "finetree.toml"
    file.write_text("workers = true\n")
    assert failure("--config", str(file)) == (
        "SETTING_INVALID",
        "workers in the configuration file: True is not a whole number",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [("workerz = 1", "SETTING_UNKNOWN"), ("workers =", "CONFIG_UNREADABLE"), (None, "CONFIG_UNREADABLE")],
)
def test_an_unusable_file_is_refused_without_its_path(tmp_path, content, reason):
    file = tmp_path / "finetree.toml"
    if content is not None:
        file.write_text(content)
    found, text = failure("--config", str(file))
    assert found == reason
    assert str(tmp_path) not in text


@pytest.mark.parametrize("argv", [["--worker", "1"], ["--nothing"], ["stray"]])
def test_unknown_flags_are_refused_and_none_is_completed(argv):
    assert failure(*argv)[0] == "SETTING_UNKNOWN"


def test_a_missing_setting_says_how_to_give_it():
    assert failure(kind=Needy) == (
        "SETTING_MISSING",
        "data_dir is not set: give --data-dir or set FINETREE_TEST_DATA_DIR",
    )
    assert failure("--data-dir", "x", kind=Needy)[1].startswith("key is not set: set FINETREE_TEST_KEY")


def test_secrets_come_from_the_environment_or_a_file_and_are_never_shown(tmp_path):
    file = tmp_path / "key"
    file.write_text("swordfish\n")
    for found in (
        of(FINETREE_TEST_KEY="swordfish"),
        of("--key-file", str(file)),
        of(FINETREE_TEST_KEY_FILE=str(file)),
    ):
        assert found.key.reveal() == "swordfish"
        assert "swordfish" not in f"{found!r} {found} {found.key} {found.key!r}"
    assert failure("--key", "swordfish") == ("SETTING_UNKNOWN", failure("--key", "swordfish")[1])


def test_a_secret_file_that_is_not_there_is_named_by_its_flag(tmp_path):
    reason, text = failure("--key-file", str(tmp_path / "none"))
    assert reason == "SETTING_INVALID"
    assert text == "--key-file: cannot read the file: No such file or directory"


@pytest.mark.parametrize("kind", [Settings, ServiceSettings])
def test_help_shows_every_setting_with_its_variable(capsys, kind):
    with pytest.raises(SystemExit) as caught:
        of("--help", kind=kind)
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(kind):
        assert f"FINETREE_TEST_{field.name.upper()}" in text
        assert field.metadata["help"].lower() in text.lower()


@pytest.mark.parametrize("kind", [dict[str, str], list[str], int | str, bytes])
def test_a_setting_of_a_type_that_cannot_be_given_is_a_fault_of_the_program(kind):
    odd = dataclasses.make_dataclass("Odd", [("odd", kind, setting(None, "Odd."))], kw_only=True)
    with pytest.raises(TypeError, match="a setting cannot be"):
        of(kind=odd)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WithUrl:
    database_url: SecretUrl = setting(SecretUrl(), "Where it is.")


@pytest.mark.parametrize(
    "url",
    ["db://me:geheim@host/name", "db://:geheim@host", "db://me@host/name?password=geheim", "db://host?SSLPassword=x"],
)
def test_a_url_with_a_password_is_taken_from_anywhere_but_the_command_line(tmp_path, url):
    reason, message = failure("--database-url", url, kind=WithUrl)
    assert reason == "SETTING_INVALID"
    assert message.startswith("--database-url: every process of this machine sees a password given here; use ")
    assert "FINETREE_TEST_DATABASE_URL, --database-url-file" in message
    assert "geheim" not in message
    file = tmp_path / "url"
    file.write_text(url + "\n")
    assert of("--database-url-file", str(file), kind=WithUrl).database_url.reveal() == url
    given = of(kind=WithUrl, FINETREE_TEST_DATABASE_URL=url)
    assert given.database_url.reveal() == url
    assert "geheim" not in repr(given)


@pytest.mark.parametrize("url", ["db://me@host:5432/name", "db://host/a:b@c", "db:///?service=x&passfile=y"])
def test_a_url_without_a_password_may_be_a_flag(url):
    assert of("--database-url", url, kind=WithUrl).database_url.reveal() == url
