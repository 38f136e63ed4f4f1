# SPDX-License-Identifier: Apache-2.0
"""`Job.push` to a hub on loopback, by both clients."""

import hashlib
import json
import logging
import subprocess
import sys

import finetree
import pytest
from finetree.testing import Script

CARD = b'---\nlicense: mit\n---\n\n```python\nmodel = AutoModelForCausalLM.from_pretrained(".")\n```\n'
FILES = {
    "README.md": CARD,
    "adapter_config.json": b'{"peft_type": "LORA", "r": 8}',
    "adapter_model.safetensors": b"first" * 4000,
    "other.safetensors": b"second" * 4000,
}
REPO = "acme/support-lora"


@pytest.fixture
def environment(hub, monkeypatch, tmp_path):
    """The environment of a push."""
    for name, value in {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def job(do, suite, spec, environment):
    """A job that made an adapter."""
    suite.trainer.script = Script(steps=2, files={"adapter": FILES})
    made = do(do.client().create_job(spec))
    do(made.wait())
    return made


def test_a_push_is_private_whole_and_noted_in_the_job(do, job, hub, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    seen: list[tuple[int, int]] = []
    pushed = do(job.push(REPO, token=hub.token, on_progress=lambda *step: seen.append(step)))
    repo = hub.repos[REPO]
    assert (pushed.repository, pushed.revision, pushed.commit, pushed.private) == (REPO, "main", repo.commit, True)
    assert (pushed.uploaded, pushed.files) == (tuple(sorted(FILES)), len(FILES))
    assert pushed.commit in pushed.commit_url
    assert repo.private
    assert repo.files == FILES | {"README.md": CARD.replace(b'"."', b'"acme/support-lora"')}
    assert job.snapshot.annotations["finetree.dev/pushed"] == f"{REPO}@{repo.commit}"
    assert do(job.refresh()).annotations["finetree.dev/pushed"] == f"{REPO}@{repo.commit}"
    total = sum(map(len, FILES.values()))
    assert seen[-1] == (total, total)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert hub.token not in caplog.text + repr(pushed) + repr(job)


def test_again_nothing_is_sent_and_the_commit_is_the_same(do, job, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    first = do(job.push(REPO, revision="v2"))
    hub.requests.clear()
    again = do(job.push(REPO, revision="v2"))
    assert (again.commit, again.uploaded) == (first.commit, ())
    assert not [request for request in hub.requests if "/commit/" in request.path or request.method == "PUT"]


def test_an_interrupted_push_goes_on_where_it_was(do, job, hub, tmp_path):
    hub.failing_uploads.append(hashlib.sha256(FILES["other.safetensors"]).hexdigest())
    with pytest.raises(finetree.Unavailable) as caught:
        do(job.push(REPO, token=hub.token))
    assert caught.value.reason == "PUSH_REFUSED"
    assert hub.repos[REPO].files == {}
    assert "finetree.dev/pushed" not in do(job.refresh()).annotations
    sent = set(hub.objects)
    hub.requests.clear()
    assert do(job.push(REPO, token=hub.token)).uploaded == tuple(sorted(FILES))
    assert sum(request.method == "PUT" for request in hub.requests) == 2 - len(sent)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"token": None}, (finetree.InvalidArgument, "PUSH_TOKEN_MISSING")),
        ({"token": "hf_wrong"}, (finetree.Unauthenticated, "PUSH_REFUSED")),
        ({"endpoint": "http://127.0.0.1:9"}, (finetree.Unavailable, "PUSH_REFUSED")),
        ({"endpoint": "http://hub.example"}, (finetree.InvalidArgument, "PUSH_ADDRESS_INVALID")),
        ({"artifact": "nothing"}, (finetree.InvalidArgument, "ARTIFACT_NOT_FOUND")),
        ({"repository": "just-a-name"}, (finetree.InvalidArgument, "INVALID_REQUEST")),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_committed(do, job, hub, given, refused):
    kind, reason = refused
    with pytest.raises(kind) as caught:
        do(job.push(**{"repository": REPO, "token": hub.token} | given))
    assert caught.value.reason == reason
    assert hub.token not in str(caught.value)
    assert "hf_wrong" not in str(caught.value)
    assert not any(repo.files for repo in hub.repos.values())
    assert "finetree.dev/pushed" not in do(job.refresh()).annotations


def test_without_the_right_to_change_the_job_nothing_is_sent(do, job, suite, hub, tmp_path):
    suite.fail_next("UpdateJob", "PERMISSION_DENIED", reason="ROLE_MISSING")
    with pytest.raises(finetree.PermissionDenied) as caught:
        do(job.push(REPO, token=hub.token))
    assert caught.value.reason == "ROLE_MISSING"
    assert (hub.requests, hub.repos) == ([], {})
    assert not list(tmp_path.rglob("*.safetensors"))


def test_asking_for_the_right_changes_nothing_of_the_job(do, job, hub):
    before = do(job.refresh())
    with pytest.raises(finetree.InvalidArgument):
        do(job.push(REPO, token=hub.token, artifact="nothing"))
    assert do(job.refresh()) == before


def test_two_pushes_of_a_job_have_a_folder_each(do, job, suite, hub, tmp_path):
    """The second is whole, and the first goes on with what it has fetched, though the second ends before it sends."""
    second: list[finetree.PushedArtifact] = []

    def push_another(done: int, total: int) -> None:
        if done == total and not second:
            with suite.client() as other:
                second.append(other.job(job.name).push("acme/other", token=hub.token))

    first = do(job.push(REPO, token=hub.token, on_progress=push_another))
    assert (first.uploaded, second[0].uploaded) == (tuple(sorted(FILES)), tuple(sorted(FILES)))
    assert set(hub.repos[REPO].files) == set(hub.repos["acme/other"].files) == set(FILES)
    assert not list((tmp_path / "finetree" / "push").iterdir())


def test_a_file_that_is_gone_is_no_broken_connection(do, job, hub, tmp_path):
    def lose(done: int, total: int) -> None:
        if done == total:
            next(tmp_path.rglob("other.safetensors")).unlink()

    # The last bytes are reported before their file has its name: what was there before is reported by a second push.
    hub.status = 500
    with pytest.raises(finetree.Unavailable):
        do(job.push(REPO, token=hub.token))
    hub.status = 0
    with pytest.raises(finetree.FailedPrecondition, match=r"^other\.safetensors of the fetched artifact") as caught:
        do(job.push(REPO, token=hub.token, on_progress=lose))
    assert caught.value.reason == "PUSH_FILE_UNREADABLE"
    assert str(tmp_path) not in str(caught.value)
    assert do(job.push(REPO, token=hub.token)).uploaded == tuple(sorted(FILES))


def test_a_public_repository_is_pushed_to_on_demand_alone(do, job, hub):
    assert not do(job.push(REPO, public=True, token=hub.token)).private
    with pytest.raises(finetree.InvalidArgument) as caught:
        do(job.push(REPO, token=hub.token))
    assert caught.value.reason == "PUSH_WOULD_PUBLISH"


def test_the_hubs_library_is_loaded_by_a_push_alone():
    show = "import finetree, json, sys; finetree.Client, finetree.AsyncClient, finetree.Job.push; "
    show += "print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True, timeout=60)
    assert not [name for name in json.loads(done.stdout) if name.startswith("huggingface_hub")]
