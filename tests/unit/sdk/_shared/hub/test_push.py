# SPDX-License-Identifier: Apache-2.0
"""What of a job is pushed, and where to."""

import pytest
from finetree import FailedPrecondition, Internal, InvalidArgument
from finetree._shared.hub.push import PushFolder, choose, files_of, target_of
from finetree_api.trainer.v1 import artifact_pb2

CARDS = [
    ('model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")', 'from_pretrained("a/b", dtype="auto")'),
    ('t = AutoTokenizer.from_pretrained(".", gguf_file="m.gguf")', 'from_pretrained("a/b", gguf_file="m.gguf")'),
    ('t = AutoTokenizer.from_pretrained(".")', 'from_pretrained("a/b")'),
    (
        'm = PeftModel.from_pretrained(A.from_pretrained("x/y"), ".")',
        'from_pretrained(A.from_pretrained("x/y"), "a/b")',
    ),
    ('adapter.load(A.from_pretrained("x/y"), ".")', 'adapter.load(A.from_pretrained("x/y"), ".")'),
]


@pytest.mark.parametrize(("line", "pushed"), CARDS)
def test_every_line_that_loads_from_the_folder_loads_from_the_repository(tmp_path, line, pushed):
    (tmp_path / "README.md").write_text(f"```python\n{line}\n```\n", encoding="utf-8")
    artifact = artifact_pb2.Artifact(files=[artifact_pb2.ArtifactFile(path="README.md")])
    made = files_of(artifact, tmp_path, repository="a/b", revision="main")["README.md"]
    assert isinstance(made, bytes)
    assert pushed.encode() in made
    other = files_of(artifact, tmp_path, repository="a/b", revision="v2")["README.md"]
    assert isinstance(other, bytes)
    assert (b'"a/b", revision="v2"' in other) is ("adapter.load" not in line)


def test_an_exported_gguf_file_is_pushed_without_being_named():
    made = [
        artifact_pb2.Artifact(name="jobs/j/artifacts/report", kind=artifact_pb2.ARTIFACT_KIND_REPORT),
        artifact_pb2.Artifact(name="jobs/j/artifacts/gguf", kind=artifact_pb2.ARTIFACT_KIND_GGUF),
    ]
    assert choose(made, None) == made[1]
    with pytest.raises(InvalidArgument, match="no GGUF file: it has report"):
        choose(made[:1], None)


def aim(repository="a/b", *, token: str | None = "hf_mine", endpoint: str | None = None):
    return target_of(repository, revision="main", public=False, token=token, endpoint=endpoint)


def test_token_and_hub_are_those_of_the_environment_unless_they_are_given(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    assert (aim(token=None).token, aim().token) == ("hf_theirs", "hf_mine")
    assert aim().endpoint == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    assert aim().endpoint == "http://127.0.0.1:9"
    assert aim(endpoint="https://hub.example").endpoint == "https://hub.example"
    assert "hf_mine" not in repr(aim())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"repository": "just-a-name"}, "INVALID_REQUEST"),
        ({"token": " "}, "PUSH_TOKEN_MISSING"),
        ({"endpoint": "http://hub.example"}, "PUSH_ADDRESS_INVALID"),
    ],
)
def test_what_cannot_be_pushed_to_is_refused_without_a_call(given, reason):
    with pytest.raises(InvalidArgument) as caught:
        aim(**given)
    assert caught.value.reason == reason
    assert "hf_mine" not in str(caught.value)


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FailedPrecondition, match=r"finetree\[push\]") as caught:
        aim()
    assert caught.value.reason == "PUSH_NOT_INSTALLED"


def test_a_folder_is_a_push_s_own_and_a_failed_one_leaves_it_to_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with PushFolder("job") as first, PushFolder("job") as second, PushFolder("another") as other:
        paths = {first.path, second.path, other.path}
        assert len(paths) == 3
        assert all(path.is_dir() for path in paths)
        (first.path / "half").touch()
        (second.path / "half").touch()
    assert not second.path.exists()
    with PushFolder("job") as again:
        assert again.path == first.path
        assert (again.path / "half").exists()
        again.discard()
        # Another push may come before this one has ended.
        with PushFolder("job") as next_one:
            assert next_one.path == first.path
            assert not any(next_one.path.iterdir())
    assert next_one.path.is_dir()


def test_no_uid_leads_out_of_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Internal) as caught:
        PushFolder("../../mine")
    assert caught.value.reason == "UNSAFE_PATH"
