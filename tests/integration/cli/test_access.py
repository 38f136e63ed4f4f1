# SPDX-License-Identifier: Apache-2.0
"""A suite that asks for tokens, used by the command, the SDK in both kinds, HTTP and OpenAI's routes."""

import asyncio
import io
import json
import os
import stat
from pathlib import Path

import finetree
import httpx2
import pytest
from finetree_api.estimator.v1 import calibration_pb2
from finetree_cli import __main__ as entry
from finetree_cli.backends.access.program import ask
from finetree_cli.backends.access.service_token import service_token as token_of_up
from finetree_cli.backends.suite import CONSOLE, Suite
from finetree_runtime.config.service_token import service_token
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted
from finetree_trainer.estimator import EstimateUnavailableError, RemoteEstimator, ReportRefusedError

WAIT = 60


@pytest.fixture(scope="module")
def access_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("access") / "access"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, access_dir):
    """The suite with its console, as `finetree up --http --access-dir` starts it."""
    folder = tmp_path_factory.mktemp("guarded")
    extra = {"trainer": ("--no-prewarm", "--confinement=off")}
    with Suite(folder, extra=extra, http="127.0.0.1:0", access_dir=access_dir) as running:
        yield running


@pytest.fixture
def token(access_dir):
    """Make a token of a project with a role: its id and its text."""

    def make(project: str, role: Role) -> tuple[str, str]:
        row, text = changes.create_token(access_dir, "ci", Granted(project, Grants({project: role})), expires=None)
        return row.id, text

    return make


@pytest.fixture
def run(monkeypatch, tmp_path, capsys, guarded):
    """Run the command with the suite's addresses: what it printed, of a failure its error."""
    for name in [name for name in os.environ if name.startswith("FINETREE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    places = [word for name, address in guarded.addresses.items() for word in (f"--{name}", address)]

    def run(*words: str, code: int = 0, stdin: str = "", to_suite: bool = True) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        assert entry.run([*words, *(places if to_suite else ())]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def client_of(suite, token, kind=finetree.Client):
    addresses = {f"{name}_address": address for name, address in suite.addresses.items()}
    return kind(profile="", token=token, retries=False, **addresses)


def test_a_token_is_made_kept_used_and_revoked_by_the_command(run, access_dir, tmp_path):
    folder = f"--access-dir={access_dir}"
    assert "TOKEN_MISSING" in run("jobs", "list", code=5)
    made = json.loads(run("tokens", "create", "alice", "--project", "search", folder, "--json", to_suite=False))
    assert "TOKEN_INVALID" in run("login", "--token-stdin", code=5, stdin="ft_wrong\n")
    assert not (tmp_path / "finetree").exists()
    shown = json.loads(run("login", "--token-stdin", "--json", stdin=f"{made['token']}\n"))
    assert shown == {"profile": "default", "principal": "alice", "project": "search"}
    kept = tmp_path / "finetree" / "token-default"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == made["token"] + "\n"
    assert made["token"] not in (tmp_path / "finetree" / "config.toml").read_text()
    who = json.loads(run("whoami", "--json", to_suite=False))
    assert (who["principal"], who["project"], who["roles"]) == ("alice", "search", {"search": "ROLE_READ"})
    assert "search=read" in run("whoami", to_suite=False)
    assert json.loads(run("jobs", "list", "--json", to_suite=False)) == {"jobs": []}
    assert "read in project ads" in run("jobs", "list", "--project", "ads", code=2, to_suite=False)
    assert "operator" in run("calibration", "reset", "--all", code=2, to_suite=False)
    assert made["id"] in run("tokens", "list", folder, to_suite=False)
    run("tokens", "revoke", made["id"], folder, to_suite=False)
    assert "TOKEN_REVOKED" in run("whoami", code=5, to_suite=False)
    assert "TOKEN_NOT_FOUND" in run("tokens", "revoke", "tok_none", folder, code=2, to_suite=False)


def test_both_kinds_of_client_work_in_the_tokens_project(guarded, token):
    _, text = token("search", Role.TRAIN)
    with client_of(guarded, text) as client:
        dataset = client.upload_dataset(b'{"prompt": "a", "completion": "b"}\n' * 9)
        assert dataset.name.startswith("projects/search/datasets/")
        assert client.get_dataset(dataset.uid).name == dataset.name
        with pytest.raises(finetree.PermissionDenied) as refused:
            client.delete_dataset(dataset.uid)
        assert (refused.value.reason, refused.value.metadata["role"]) == ("ROLE_MISSING", "admin")

    async def asynchronous() -> None:
        async with client_of(guarded, text, finetree.AsyncClient) as client:
            assert [each.name async for each in client.list_datasets()] == [dataset.name]
            caller = (await client.server_info("estimator")).caller
            assert (caller.principal, caller.project) == ("ci", "search")
        async with client_of(guarded, "ft_wrong", finetree.AsyncClient) as client:
            with pytest.raises(finetree.Unauthenticated) as refused:
                await client.get_job("1")
            assert refused.value.reason == "TOKEN_INVALID"

    asyncio.run(asynchronous())


def test_services_ask_each_other_with_a_token_of_their_own(guarded, token):
    """Without a token for the estimator, a recommendation would rest on the rules alone."""
    _, text = token("search", Role.ESTIMATE)
    request = {"model": {"name": "smollm2-135m"}, "hardware": {"accelerator": "rtx-4090", "count": 1}}
    with client_of(guarded, text) as client:
        found = client.recommend(request)
    assert found.revision.engine.id

    async def as_the_trainer() -> None:
        observation = calibration_pb2.Observation(job="projects/search/jobs/1", attempt=1, step_seconds=0.5)
        mine = RemoteEstimator(guarded.addresses["estimator"], lambda: text)
        its_own = RemoteEstimator(guarded.addresses["estimator"], service_token(guarded.data_dir / "service-token"))
        assert await its_own.catalog()
        with pytest.raises(ReportRefusedError, match="INVALID_REQUEST"):  # let in: what it measured is missing
            await its_own.report(observation, request_id="first")
        with pytest.raises(EstimateUnavailableError, match="ROLE_MISSING"):
            await mine.report(observation, request_id="second")
        await mine.close()
        await its_own.close()

    asyncio.run(as_the_trainer())


def test_http_and_openais_routes_pass_the_token_on(guarded, token):
    _, ours = token("search", Role.TRAIN)
    _, theirs = token("ads", Role.TRAIN)
    with httpx2.Client(base_url=f"http://{guarded.children[CONSOLE].address}", timeout=WAIT) as http:

        def post(path: str, text: str = "") -> httpx2.Response:
            return http.post(path, json={}, headers={"Authorization": f"Bearer {text}"} if text else {})

        def get(path: str, text: str = "") -> httpx2.Response:
            return http.get(path, headers={"Authorization": f"Bearer {text}"} if text else {})

        missing = post("/trainer/v1/ListJobs")
        assert (missing.status_code, missing.json()["error"]["reason"]) == (401, "TOKEN_MISSING")
        assert post("/trainer/v1/ListJobs", ours).json()["jobs"] == []
        denied = http.post(
            "/trainer/v1/ListJobs", json={"parent": "projects/ads"}, headers={"Authorization": f"Bearer {ours}"}
        )
        assert (denied.status_code, denied.json()["error"]["reason"]) == (403, "ROLE_MISSING")
        refused = get("/v1/files")
        assert refused.status_code == 401
        assert refused.json()["error"] == {
            "message": refused.json()["error"]["message"],
            "type": "authentication_error",
            "code": "TOKEN_MISSING",
            "param": None,
        }
        rows = {
            "file": (
                "rows.jsonl",
                b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
            )
        }
        sent = http.post(
            "/v1/files", files=rows, data={"purpose": "fine-tune"}, headers={"Authorization": f"Bearer {ours}"}
        )
        assert sent.status_code == 200, sent.text
        file = sent.json()["id"]
        assert get(f"/v1/files/{file}", ours).json()["id"] == file
        assert file not in get("/v1/files", theirs).text
        assert get(f"/v1/files/{file}", theirs).status_code == 404


def test_the_services_token_is_kept_over_a_restart(guarded, access_dir):
    kept = guarded.token()
    assert token_of_up(access_dir, guarded.data_dir).read_text().strip() == kept
    assert stat.S_IMODE((guarded.data_dir / "service-token").stat().st_mode) == 0o600
    rows = [row for row in ask(access_dir, ("list",))["tokens"] if row["principal"] == "finetree-up"]
    ask(access_dir, ("revoke", rows[0]["id"]))
    assert token_of_up(access_dir, guarded.data_dir).read_text().strip() != kept
