# SPDX-License-Identifier: Apache-2.0
"""What prepares the containers: it makes what is missing, leaves what is there, and may be killed at any moment."""

import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from finetree_runtime.config.settings import load
from finetree_trainer.settings import Settings
from finetree_trainer.store.backends.url import parse

SCRIPT = Path(__file__).resolve().parents[3] / "services" / "image" / "first_start.py"
_spec = importlib.util.spec_from_file_location("first_start", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
first_start = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(first_start)

VOLUMES = (
    *("access", "authority", "database-password", "login", "object-store-keys", "recommender", "team", "tls"),
    "trainer",
)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def active(root: Path) -> list[str]:
    """Principals of tokens that are accepted."""
    program = [sys.executable, "-m", "finetree_runtime.server.access", "list", "--access-dir", str(root / "access")]
    listed = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    return sorted(token["principal"] for token in listed["tokens"] if token["state"] == "active")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("first_start")
    for name in VOLUMES:
        (root / name).mkdir()
    first_start.prepare(root, ("localhost", "127.0.0.1"))
    return root


def test_everything_a_service_reads_is_its_owners_alone(prepared):
    found = content(prepared)
    assert {"tls/server.pem", "tls/server.key", "tls/ca.pem", "trainer/token", "recommender/token"} <= set(found)
    assert "tls/ca.key" not in found
    assert found["tls/server.pem"] == found["authority/server.pem"]
    secret = ("token", "server.key", "ca.key")
    assert all(path.stat().st_mode & 0o077 == 0 for path in prepared.rglob("*") if path.name in secret)
    assert active(prepared) == ["admin", "recommender-service", "trainer-service"]


def test_a_later_start_changes_nothing(prepared, capsys):
    before = content(prepared)
    first_start.prepare(prepared, ("localhost", "127.0.0.1"))
    assert content(prepared) == before
    said = capsys.readouterr().out
    assert not any(text.decode().strip() in said for name, text in before.items() if name.endswith("token"))


def test_a_team_has_servers_whose_secrets_are_made_once_and_in_files_alone(prepared, capsys):
    settings = ("team/url", "team/trainer.toml")
    assert not any(content(prepared)[name] for name in settings)  # embedded, until somebody asks for the profile
    first_start.team(prepared)
    first_start.prepare(prepared, ("localhost", "127.0.0.1"))
    made = content(prepared)
    first_start.team(prepared)
    assert content(prepared) == made
    password, key = (made[name].decode() for name in ("database-password/password", "object-store-keys/secret"))
    assert made["team/url"].decode() == f"postgresql+psycopg://finetree:{password}@database:5432/finetree"
    assert parse(made["team/url"].decode()).password == password
    assert tomllib.loads(made["team/object-store.toml"].decode())["secret_access_key"] == key
    (identity,) = json.loads(made["object-store-keys/identities.json"])["identities"]
    assert identity["credentials"] == [{"accessKey": "trainer", "secretKey": key}]
    assert all(action.endswith(":finetree") for action in identity["actions"])
    folders = ("team", "database-password", "object-store-keys")
    assert all((prepared / name).stat().st_mode & 0o077 == 0 for name in made if name.startswith(folders))
    said = capsys.readouterr().out
    assert password not in said
    assert key not in said


def test_the_trainer_takes_the_settings_of_a_team(prepared):
    config = [
        "--config",
        str(prepared / "team" / "trainer.toml"),
        "--database-url-file",
        str(prepared / "team" / "url"),
    ]
    given = load(Settings, config, {}, "FINETREE_TRAINER")
    assert given.object_store == "s3://finetree/trainer"
    assert str(given.object_store_options_file) == "/etc/finetree/team/object-store.toml"
    assert given.database_url


@pytest.mark.parametrize("answer", [201, 409])
def test_a_bucket_is_made_or_there(answer):
    asked = []

    class Filer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Filer) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        first_start.bucket("127.0.0.1", server.server_port)
        serving.join()
    assert asked == ["/buckets/finetree/"]
    with pytest.raises(SystemExit, match="does not answer"):
        first_start.bucket("127.0.0.1", server.server_port)


def test_a_start_that_was_killed_leaves_no_token_that_nobody_has(prepared):
    # As after a kill between the token's creation and its file.
    kept = (prepared / "recommender" / "token").read_bytes()
    lost = (prepared / "trainer" / "token").read_bytes()
    (prepared / "trainer" / "token").unlink()
    first_start.prepare(prepared, ("localhost", "127.0.0.1"))
    assert (prepared / "trainer" / "token").read_bytes() != lost
    assert (prepared / "recommender" / "token").read_bytes() == kept
    assert active(prepared) == ["admin", "recommender-service", "trainer-service"]


def test_other_names_get_another_certificate_of_the_same_authority(prepared):
    before = content(prepared)
    first_start.prepare(prepared, ("localhost", "127.0.0.1", "finetree.example.com"))
    after = content(prepared)
    assert after["tls/ca.pem"] == before["tls/ca.pem"]
    assert after["tls/server.pem"] != before["tls/server.pem"]


def test_the_first_token_is_shown_once(prepared):
    waiting = (prepared / "login" / "token").read_text(encoding="ascii")
    assert first_start.login_token(prepared) == waiting
    with pytest.raises(SystemExit, match="was shown before"):
        first_start.login_token(prepared)
    first_start.prepare(prepared, ("localhost", "127.0.0.1", "finetree.example.com"))
    assert not (prepared / "login" / "token").exists()
    assert active(prepared).count("admin") == 1
