# SPDX-License-Identifier: Apache-2.0
"""What docker-compose.yml needs before its services start: certificates, tokens, and the way to log in.

    first_start.py prepare        make what is missing; renew certificates that end within 30 days
    first_start.py team           make what the servers of the profile `team` ask for, and the settings for them
    first_start.py bucket         make the bucket of its object store
    first_start.py login token    print the first token, once, and remove it
    first_start.py login ca       print the certificate of the private authority

Each folder below /etc/finetree is a volume that only those services get that need it; `authority` and `login` go to no
service. `prepare` runs at every `docker compose up`. Files are complete when they have their name, and a token that was
made and never got into its file is revoked, so that it may be killed at any moment and started again.
"""

import argparse
import http.client
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path("/etc/finetree")
HOSTS = ("localhost", "127.0.0.1", "estimator", "recommender", "trainer", "console")
"""Names that clients reach the services by: from this machine, and inside the network of docker-compose.yml."""
RENEW_WITHIN = "720h"
PUBLISHED = ("ca.pem", "server.key", "server.pem")
"""Files that services read. The key goes first: a server takes the two only where they belong together."""
SERVICE_TOKENS = {
    "recommender": ("--project", "*", "--role", "estimate"),
    # An operator: it reports to the estimator what runs have measured.
    "trainer": ("--project", "*", "--role", "estimate", "--operator"),
}
"""Tokens that services show each other, and what each may do; they never expire."""
DATABASE = "postgresql+psycopg://finetree:{password}@database:5432/finetree"
"""URL of the database of the profile `team`, in the network that it shares with the trainer alone."""
BUCKET = "finetree"
FILER = ("object-store", 8888)
"""Where the object store makes a bucket: SeaweedFS keeps each in a folder of that name."""
OBJECT_STORE = f"""object_store = "s3://{BUCKET}/trainer"
object_store_options_file = "{ROOT}/team/object-store.toml"
"""
OBJECT_STORE_OPTIONS = """endpoint = "http://object-store:8333"
region = "us-east-1"
allow_http = true
access_key_id = "trainer"
secret_access_key = "{secret}"
"""
FIRST = "admin"
"""Principal of the first token: everything, for 90 days, which is enough to make others."""
FIRST_MAY = ("--project", "*", "--role", "admin", "--operator", "--expires", "90d")


def prepare(root: Path, hosts: Sequence[str]) -> None:
    """Make certificates and tokens that are missing, and renew what is due."""
    _certificates(root, hosts)
    for name, may in SERVICE_TOKENS.items():
        _token(root, f"{name}-service", may=(*may, "--expires", "never"), file=root / name / "token")
    for name in ("url", "trainer.toml"):
        if not (root / "team" / name).exists():
            _write(root / "team" / name, "")  # no other settings: everything is in the trainer's folder
    shown = root / "login" / "shown"
    if not shown.exists():
        _token(root, FIRST, may=FIRST_MAY, file=root / "login" / "token")
        _say("the first token waits: `docker compose run --rm -T login token` prints it, once")


def team(root: Path) -> None:
    """Make what the servers of the profile `team` ask for, and give it to the trainer, as settings in files."""
    password = _secret(root / "database-password" / "password")
    key = _secret(root / "object-store-keys" / "secret")
    may = [f"{right}:{BUCKET}" for right in ("Read", "Write", "List", "Tagging")]
    trainer = {"name": "trainer", "credentials": [{"accessKey": "trainer", "secretKey": key}], "actions": may}
    wanted = {
        root / "object-store-keys" / "identities.json": json.dumps({"identities": [trainer]}),
        root / "team" / "url": DATABASE.format(password=password),
        root / "team" / "object-store.toml": OBJECT_STORE_OPTIONS.format(secret=key),
        root / "team" / "trainer.toml": OBJECT_STORE,
    }
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="ascii") != text:
            _write(path, text)


def bucket(host: str, port: int) -> None:
    """Make the bucket, unless it is there: the trainer makes none. Raises SystemExit."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", f"/buckets/{BUCKET}/")
        status = connection.getresponse().status
    except OSError as error:
        raise SystemExit(f"the object store does not answer: {error}") from None
    finally:
        connection.close()
    if status not in (http.HTTPStatus.CREATED, http.HTTPStatus.CONFLICT):
        raise SystemExit(f"the object store makes no bucket, and answers {status}")


def login_token(root: Path) -> str:
    """Return the first token and remove it.

    Raises:
        SystemExit: It was shown before, or there is none.
    """
    token, shown = root / "login" / "token", root / "login" / "shown"
    if not token.exists():
        raise SystemExit(
            "the first token was shown before, or `docker compose up` has not run; make another one with\n"
            "  docker compose run --rm -T tokens create NAME --project '*' --role admin --operator"
        )
    text = token.read_text(encoding="ascii")
    _write(shown, "")
    token.unlink()
    return text


def _certificates(root: Path, hosts: Sequence[str]) -> None:
    authority, names = root / "authority", root / "authority" / "hosts"
    wanted = "\n".join(hosts)
    if names.exists() and names.read_text(encoding="utf-8") != wanted:
        # Other names need another certificate; the authority, which clients trust, stays.
        for old in ("server.pem", "server.key"):
            (authority / old).unlink(missing_ok=True)
    _run("finetree_cli", "tls", "init", str(authority), *(f"--name={host}" for host in hosts))
    _write(names, wanted)
    _run("finetree_cli", "tls", "renew", str(authority), "--within", RENEW_WITHIN)
    for name in PUBLISHED:
        text = (authority / name).read_text(encoding="ascii")
        target = root / "tls" / name
        if not target.exists() or target.read_text(encoding="ascii") != text:
            _write(target, text)
            _say(f"{name} is new")


def _token(root: Path, principal: str, *, may: Sequence[str], file: Path) -> None:
    """Make a principal's token and keep it in a file, unless the file is there."""
    if file.exists():
        return
    where = ("--access-dir", str(root / "access"))
    exists = (root / "access" / "access.json").exists()
    listed = json.loads(_run("finetree_runtime.server.access", "list", *where)) if exists else {"tokens": []}
    for token in listed["tokens"]:
        if token["principal"] == principal and token["state"] == "active":
            _run("finetree_runtime.server.access", "revoke", token["id"], *where)
    made: dict[str, Any] = json.loads(_run("finetree_runtime.server.access", "create", principal, *where, *may))
    _write(file, made["token"])
    _say(f"made a token for {principal}")


def _secret(path: Path) -> str:
    """Return the secret in a file, which is made at the first time: 256 bits."""
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
        _say(f"made {path.parent.name}/{path.name}")
    return path.read_text(encoding="ascii")


def _write(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, in one step."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _run(module: str, *arguments: str) -> str:
    """Run a program of the suite and return what it printed, which may be a token: it goes to no log."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} {arguments[0]} {arguments[1]}: {done.stderr.strip()}")
    return done.stdout


def _say(text: str) -> None:
    print(f"first start: {text}", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description="Prepare the volumes of docker-compose.yml, and log in.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="make certificates and tokens that are missing")
    commands.add_parser("team", help="make what the servers of the profile `team` ask for")
    commands.add_parser("bucket", help="make the bucket of the object store")
    login = commands.add_parser("login", help="print what a client needs")
    login.add_argument("what", choices=("token", "ca"), help="the first token, once; or the authority's certificate")
    given = parser.parse_args(list(arguments))
    if given.command == "prepare":
        prepare(ROOT, (*HOSTS, *os.environ.get("FINETREE_HOSTS", "").split()))
    elif given.command == "team":
        team(ROOT)
    elif given.command == "bucket":
        bucket(*FILER)
    elif given.what == "ca":
        print((ROOT / "tls" / "ca.pem").read_text(encoding="ascii"), end="")
    else:
        print(login_token(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
