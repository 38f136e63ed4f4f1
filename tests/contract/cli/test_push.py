# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs push` to a hub on loopback, which huggingface_hub's own client talks to."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry

CARD = (
    b'---\nlicense: mit\n---\n\n```python\nmodel = PeftModel.from_pretrained(Base.from_pretrained("a/b"), ".")\n```\n'
)
FILES = {
    "README.md": CARD,
    "adapter_config.json": b'{"peft_type": "LORA", "r": 8}',
    "adapter_model.safetensors": b"first" * 4000,
    "other.safetensors": b"second" * 4000,
}
REPO = "acme/support-lora"


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with Suite() as made:
        made.trainer.script = Script(steps=2, files={"adapter": FILES})
        made.base_models.add("acme/small")
        yield made


@pytest.fixture
def job(suite, hub, monkeypatch, tmp_path) -> str:
    """The name of a job that made an adapter; the environment of its push."""
    for name, value in {
        "FINETREE_ADDRESS": suite.address,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    rows = suite.datasets.add([{"prompt": "a", "completion": "b"}])
    spec = {"model": {"name": "small"}, "lora": {"rank": 8}, "training": {"epochs": 1}, "dataset": {"name": rows.name}}
    with suite.client() as client:
        made = client.create_job(spec)
        made.wait()
        return str(made.name)


@pytest.fixture
def run(capsys):
    def command(*words: str) -> tuple[int, Any, str]:
        code = entry.run([*words, "--json"])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, json.loads(captured.out), captured.out + captured.err

    return command


@pytest.fixture
def pushing(run, job, monkeypatch):
    """The command for the job, and its environment."""
    return lambda *words: run("jobs", "push", job, *words), monkeypatch


def uploads(hub) -> int:
    return sum(request.method == "PUT" for request in hub.requests)


def test_a_push_is_private_whole_and_kept_in_the_job(run, hub, job, suite, tmp_path):
    code, told, printed = run("jobs", "push", job, REPO)
    assert (code, told["private"], told["uploaded"]) == (0, True, sorted(FILES))
    repo = hub.repos[REPO]
    assert repo.private
    assert told["commit"] == repo.commit
    assert {name: content for name, content in repo.files.items() if name != "README.md"} == {
        name: content for name, content in FILES.items() if name != "README.md"
    }
    # The card of the repository loads from the repository.
    assert repo.files["README.md"] == CARD.replace(b'"."', b'"acme/support-lora"')
    with suite.client() as client:
        assert client.get_job(job).annotations["finetree.dev/pushed"] == f"{REPO}@{repo.commit}"
    assert hub.token not in printed
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_second_push_sends_nothing_and_makes_no_commit(run, hub, job):
    _, first, _ = run("jobs", "push", job, REPO)
    hub.requests.clear()
    code, second, _ = run("jobs", "push", job, REPO)
    assert (code, second["uploaded"], second["commit"]) == (0, [], first["commit"])
    assert not [request for request in hub.requests if "/commit/" in request.path or request.method == "PUT"]


def test_an_interrupted_push_goes_on_where_it_was(run, hub, job, tmp_path):
    hub.failing_uploads.append(hashlib.sha256(FILES["other.safetensors"]).hexdigest())
    code, told, _ = run("jobs", "push", job, REPO)
    assert (code, told["error"]["reason"]) == (5, "PUSH_REFUSED")
    assert hub.repos[REPO].files == {}
    assert list((tmp_path / "cache").rglob("other.safetensors"))
    sent = set(hub.objects)
    hub.requests.clear()
    code, told, _ = run("jobs", "push", job, REPO)
    assert (code, told["uploaded"]) == (0, sorted(FILES))
    assert uploads(hub) == 2 - len(sent)
    assert set(hub.repos[REPO].files) == set(FILES)


def test_what_has_changed_alone_is_sent(run, hub, job):
    run("jobs", "push", job, REPO)
    hub.repos[REPO].files["adapter_config.json"] = b"{}"
    code, told, _ = run("jobs", "push", job, REPO, "--revision", "v2")
    # The lines of the card name the branch that they are on.
    assert (code, told["uploaded"], told["revision"]) == (0, ["README.md", "adapter_config.json"], "v2")
    assert b'"acme/support-lora", revision="v2")' in hub.repos[REPO].files["README.md"]
    assert hub.repos[REPO].files["adapter_config.json"] == FILES["adapter_config.json"]
    assert "v2" in hub.repos[REPO].refs


def test_a_public_repository_is_pushed_to_on_demand_alone(run, hub, job):
    code, told, _ = run("jobs", "push", job, REPO, "--public")
    assert (code, told["private"], hub.repos[REPO].private) == (0, False, False)
    code, told, _ = run("jobs", "push", job, REPO)
    assert (code, told["error"]["reason"]) == (2, "PUSH_WOULD_PUBLISH")


def refuse_the_card(hub, _environment) -> None:
    hub.refused_cards = "license is not valid"


@pytest.mark.parametrize(
    ("words", "change", "ending"),
    [
        ([REPO], lambda _, env: env.delenv("HF_TOKEN"), (2, "PUSH_TOKEN_MISSING")),
        ([REPO, "--token-env", "MINE"], lambda _, env: env.setenv("MINE", "wrong"), (5, "PUSH_REFUSED")),
        ([REPO], lambda _, env: env.setenv("HF_ENDPOINT", "http://hub.example"), (2, "PUSH_ADDRESS_INVALID")),
        ([REPO], lambda _, env: env.setenv("HF_ENDPOINT", "http://127.0.0.1:9"), (5, "PUSH_REFUSED")),
        ([REPO], refuse_the_card, (2, "PUSH_REFUSED")),
        (["just-a-name"], lambda *_: None, (2, "INVALID_REQUEST")),
        ([REPO, "--artifact", "nothing"], lambda *_: None, (2, "ARTIFACT_NOT_FOUND")),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_committed(pushing, hub, words, change, ending):
    command, environment = pushing
    change(hub, environment)
    code, told, printed = command(*words)
    assert (code, told["error"]["reason"]) == ending
    assert not any(repo.files for repo in hub.repos.values())
    assert hub.token not in printed
