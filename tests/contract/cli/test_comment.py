# SPDX-License-Identifier: Apache-2.0
"""`finetree comment` against servers on loopback that behave as the APIs of GitHub and GitLab are documented."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from finetree_cli import __main__ as entry
from finetree_cli.backends.forge import http
from finetree_cli.gate import report as gate

TOKEN = "secret-token-of-the-test"
PAGE = 3
"""Comments on a page: fewer than are asked for, as a site may decide."""
BOT = {"login": "github-actions[bot]", "type": "Bot", "id": 1}
ADA = {"login": "ada", "type": "User", "id": 2}
OTHER = {"login": "mallory", "type": "User", "id": 3}
MARKER = "<!-- finetree: gate -->"


class Forge:
    """The comments of one change, and how the site behaves."""

    def __init__(self) -> None:
        self.comments: dict[int, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        """Answers that the next requests get, in order."""
        self.me: dict[str, Any] | None = BOT
        self.asks_for_user = False
        self.read_only = False
        self.pulls: list[dict[str, Any]] = []
        self.address = ""

    def say(self, author: dict[str, Any], body: str, **more: Any) -> int:
        number = len(self.comments) + 100
        key = "author" if "system" in more else "user"
        self.comments[number] = {"id": number, "body": body, key: author, **more}
        return number

    def ours(self) -> list[str]:
        return [each["body"] for each in self.comments.values() if each["body"].startswith(MARKER)]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        self.requests.append((method, path))
        if self.failures:
            status, headers = self.failures.pop(0)
            return status, {"message": "no"}, headers
        if path in ("/user", "/api/v4/user"):
            return (200, self.me, {}) if self.asks_for_user else (403, {}, {})
        if path == "/repos/acme/models/pulls":
            return 200, [each for each in self.pulls if each["label"] == query["head"]], {}
        if method == "GET":
            return self.page(query)
        if self.read_only:
            return 403, {"message": "Resource not accessible by integration"}, {}
        return self.write(method, path, body)

    def page(self, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        number, listed = int(query["page"]), list(self.comments.values())
        part = listed[(number - 1) * PAGE : number * PAGE]
        more = number * PAGE < len(listed)
        return 200, part, {"Link": f'<{self.address}/next>; rel="next"'} if more else {}

    def write(self, method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        system = {"system": False} if path.startswith("/api/v4") else {}
        if method == "POST":
            return 201, {"id": self.say(self.me or BOT, body["body"], **system)}, {}
        number = int(re.findall(r"\d+$", path)[0])
        if number not in self.comments:
            return 404, {}, {}
        if method == "DELETE":
            del self.comments[number]
            return 204, None, {}
        assert method == ("PUT" if system else "PATCH")
        self.comments[number]["body"] = body["body"]
        return 200, {}, {}


@pytest.fixture
def forge() -> Iterator[Forge]:
    found = Forge()

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = (self.headers.get("Authorization"), self.headers.get("PRIVATE-TOKEN"))
            if given in ((f"Bearer {TOKEN}", None), (None, TOKEN)):
                status, body, headers = found.answer(self.command, parts.path, query, json.loads(raw) if raw else None)
            else:
                status, body, headers = 401, {}, {}
            text = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_request  # noqa: N815 - the server's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def plan(folder: Path, cost: float, *, count: int = 1) -> Path:
    """A plan.json of jobs that cost so much."""
    entries = [
        gate.PlanEntry(
            file=f"jobs/{number}.yaml",
            verdict="PASS",
            passed=True,
            change="new",
            cost=gate.Cost(low=cost, expected=cost, high=cost, currency_code="USD"),
        )
        for number in range(count)
    ]
    report = gate.make_report(entries, as_of="2026-11-28", revisions=gate.Revisions(), base_ref="main")
    (folder / "plan.json").write_text(report.to_text(), encoding="utf-8")
    return folder / "plan.json"


@pytest.fixture
def event(tmp_path) -> Callable[[dict[str, Any]], None]:
    def write(document: dict[str, Any]) -> None:
        (tmp_path / "event.json").write_text(json.dumps(document), encoding="utf-8")

    write({"pull_request": {"number": 7, "head": {"repo": {"full_name": "acme/models"}}}})
    return write


@pytest.fixture(params=["github", "gitlab"])
def site(request) -> str:
    name: str = request.param
    return name


@pytest.fixture
def run(forge, event, tmp_path, monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    environment = {
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_REPOSITORY": "acme/models",
        "GITHUB_API_URL": forge.address,
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITLAB_TOKEN": TOKEN,
        "CI_API_V4_URL": f"{forge.address}/api/v4",
        "CI_MERGE_REQUEST_PROJECT_ID": "55",
        "CI_MERGE_REQUEST_IID": "7",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GH_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def command(site: str, *words: str) -> SimpleNamespace:
        forge.asks_for_user = forge.asks_for_user or site == "gitlab"
        code = entry.run(["comment", site, "--from", str(tmp_path / "plan.json"), *words])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return SimpleNamespace(code=code, out=out, err=err)

    return command


def test_twenty_runs_make_one_comment_among_others_that_are_left_alone(run, forge, site, tmp_path):
    system = {"system": False} if site == "gitlab" else {}
    before = [forge.say(OTHER, f"words {number}", **system) for number in range(7)]
    copied = forge.say(OTHER, f"{MARKER}\n### finetree: PASS", **system)
    said = []
    for number in range(20):
        plan(tmp_path, 1.0 + number)
        said.append(run(site).out.strip())
    assert said == ["comment made", *["comment edited"] * 19]
    assert forge.comments[copied]["body"] == f"{MARKER}\n### finetree: PASS", "a copy of the marker is not ours"
    assert [body for body in forge.ours() if "&#36;20.00" in body] == [forge.ours()[-1]]
    assert len(forge.comments) == len(before) + 2
    assert run(site).out.strip() == "comment left as it is"


def test_several_names_are_several_comments(run, forge, site, tmp_path):
    plan(tmp_path, 1)
    assert [run(site, "--name", name).out.strip() for name in ("a", "b", "a")] == [
        "comment made",
        "comment made",
        "comment left as it is",
    ]
    assert run(site, "--name", "a --> b").code == 2


def test_a_second_comment_of_ours_is_removed(run, forge, site, tmp_path):
    system = {"system": False} if site == "gitlab" else {}
    kept, double = (forge.say(BOT, f"{MARKER}\nolder", **system) for _ in range(2))
    plan(tmp_path, 3)
    assert run(site).out.strip() == "comment edited"
    assert kept in forge.comments
    assert double not in forge.comments


def test_a_person_s_token_edits_that_person_s_comment_alone(run, forge, tmp_path):
    forge.asks_for_user, forge.me = True, ADA
    bots = forge.say(BOT, f"{MARKER}\nof a bot")
    plan(tmp_path, 3)
    assert run("github").out.strip() == "comment made"
    assert forge.comments[bots]["body"] == f"{MARKER}\nof a bot"


def test_a_long_report_is_cut_to_what_the_site_takes(run, forge, tmp_path):
    plan(tmp_path, 1, count=2000)
    assert run("github").code == 0
    (body,) = forge.ours()
    assert 60_000 < len(body) <= 65_536
    assert "The rest is in plan.json" in body


@pytest.mark.parametrize(
    "busy", [(429, {"Retry-After": "0"}), (403, {"x-ratelimit-remaining": "0", "Retry-After": "0"})]
)
def test_a_busy_site_is_asked_again(run, forge, site, tmp_path, busy):
    plan(tmp_path, 1)
    forge.failures = [busy] * 2
    assert run(site).out.strip() == "comment made"
    assert len(forge.ours()) == 1


def test_a_site_that_stays_busy_is_said_and_a_wait_is_bounded(run, forge, site, tmp_path, monkeypatch):
    plan(tmp_path, 1)
    forge.failures = [(429, {"Retry-After": "3600"})]
    done = run(site)
    assert done.code == 5
    assert "429" in done.err
    assert len(forge.requests) == 1
    waits: list[float] = []
    forge.failures = [(503, {})] * 9
    asked = http.Site(forge.address, {"Authorization": f"Bearer {TOKEN}"}, waits.append)
    with pytest.raises(http.Refused, match="503"):
        asked.ask("GET", "/user")
    assert waits == [1.0, 2.0, 4.0]
    forge.failures = [(502, {})]
    with pytest.raises(http.Refused, match="502"):
        asked.ask("POST", "/user", body={})
    assert waits == [1.0, 2.0, 4.0], "a comment that may have been made is not sent again"


def test_a_token_that_may_not_write_is_5_and_says_what_it_needs(run, forge, site, tmp_path):
    plan(tmp_path, 1)
    forge.read_only = True
    done = run(site)
    assert done.code == 5
    assert {"github": "pull-requests: write", "gitlab": "scope api"}[site] in done.err
    assert "COMMENT_REFUSED" in done.err


def test_without_a_token_or_a_pull_request_there_is_no_comment_and_no_failure(run, site, event, tmp_path, monkeypatch):
    plan(tmp_path, 1)
    event({"push": {}})
    monkeypatch.delenv("CI_MERGE_REQUEST_IID")
    done = run(site)
    assert (done.code, done.out.partition(":")[0]) == (0, "no comment")
    assert "for no" in done.out
    assert run(site, "--number", "7").out.strip() == "comment made"
    monkeypatch.delenv(f"{site.upper()}_TOKEN")
    done = run(site, "--number", "7")
    assert (done.code, done.out) == (0, f"no comment: there is no token in {site.upper()}_TOKEN\n")


def test_the_run_of_a_fork_is_told_to_comment_from_another_workflow(run, forge, event, tmp_path):
    plan(tmp_path, 1)
    for repository in ({"full_name": "mallory/models"}, None):
        event({"pull_request": {"number": 7, "head": {"repo": repository}}})
        done = run("github")
        assert done.code == 0
        assert "from a fork" in done.out
    assert forge.requests == []


def test_a_workflow_run_finds_the_pull_request_by_what_github_says_of_the_run(run, forge, event, tmp_path):
    plan(tmp_path, 1)
    forge.pulls = [
        {"label": "mallory:work", "number": 8, "head": {"sha": "older"}},
        {"label": "mallory:work", "number": 9, "head": {"sha": "abc"}},
    ]
    started = {"head_branch": "work", "head_sha": "abc", "head_repository": {"owner": {"login": "mallory"}}}
    event({"workflow_run": started})
    assert run("github").out.strip() == "comment made"
    assert ("POST", "/repos/acme/models/issues/9/comments") in forge.requests
    event({"workflow_run": {**started, "head_sha": "gone"}})
    assert run("github").out.strip() == "no comment: the run belongs to no open pull request"


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/", "https://evil.example/"])
def test_a_redirect_does_not_carry_the_token_away(run, forge, site, tmp_path, location):
    plan(tmp_path, 1)
    forge.failures = [(302, {"Location": location})]
    done = run(site)
    assert done.code == 5
    assert len(forge.requests) == 1


def test_an_address_without_tls_is_refused(run, forge, site, tmp_path, monkeypatch):
    plan(tmp_path, 1)
    monkeypatch.setenv("GITHUB_API_URL", "http://api.example.org")
    monkeypatch.setenv("CI_API_V4_URL", "http://gitlab.example.org/api/v4")
    done = run(site)
    assert done.code == 2
    assert "https://" in done.err


def test_a_file_that_is_no_plan_is_2_before_anything_is_sent(run, forge, site, tmp_path):
    (tmp_path / "plan.json").write_text('{"plans": "x"}', encoding="utf-8")
    assert run(site).code == 2
    assert forge.requests == []
