# SPDX-License-Identifier: Apache-2.0
"""The file of sinks: what it says, and each mistake at its place."""

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.sinks.config import SinkConfig, read_sinks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("TRACKER_TOKEN", "t0ken")

    def reader(text: str) -> list[SinkConfig]:
        path = tmp_path / "sinks.yaml"
        path.write_text(text, encoding="utf-8")
        return read_sinks(str(path))

    return reader


def test_every_target_is_read(read, tmp_path):
    found = read("""
sinks:
- name: tracker
  mlflow: {url: "https://tracker.example", experiment: "lm/{project}", token_env: TRACKER_TOKEN}
  labels: {team: search}
- name: alerts
  webhook: {url: "http://127.0.0.1:9/hook", secret_env: HOOK_SECRET, kinds: [terminal, alert]}
- name: board
  tensorboard: {folder: runs}
- name: wb
  wandb: {folder: /var/wandb, project: tuning, python: /opt/python}
  existing: false
""")
    assert [(sink.name, sink.kind, sink.existing) for sink in found] == [
        ("tracker", "mlflow", True),
        ("alerts", "webhook", False),
        ("board", "tensorboard", True),
        ("wb", "wandb", False),
    ]
    assert (found[0].sink.token, found[0].sink.experiment, dict(found[0].labels)) == (
        "t0ken",
        "lm/{project}",
        {"team": "search"},
    )
    assert found[1].sink.kinds == ("terminal", "alert")
    assert found[2].sink.folder == tmp_path / "runs"
    assert (found[3].sink.project, found[3].sink.python) == ("tuning", "/opt/python")


def test_a_secret_is_never_shown(read):
    text = "sinks:\n- {name: a, webhook: {url: 'https://h.example', secret_env: HOOK_SECRET}}\n"
    assert SECRET not in repr(read(text))
    assert repr(read(text)[0].sink).count("secret") == 0


WRONG = {
    "sinks: []\nsink: 1": "2:1: sink: unknown setting; did you mean sinks?",
    "sinks:\n- {name: A_b, tensorboard: {folder: x}}": "sinks[0].name: must be small letters, digits and hyphens",
    "sinks:\n- {name: a}": "sinks[0]: needs one target: mlflow, webhook, tensorboard, wandb",
    "sinks:\n- {name: a, wandb: {folder: x}, tensorboard: {folder: x}}": "sinks[0]: needs one target",
    "sinks:\n- {name: a, mlflow: {}}": "sinks[0].mlflow.url: is missing",
    "sinks:\n- {name: a, mlflow: {url: ftp://x}}": "sinks[0].mlflow.url: must be an address such as",
    "sinks:\n- {name: a, mlflow: {url: 'https://u:p@x'}}": "sinks[0].mlflow.url: must be an address such as",
    "sinks:\n- {name: a, mlflow: {url: 'http://tracker.example'}}": "sinks[0].mlflow.url: is not encrypted",
    "sinks:\n- {name: a, webhook: {url: 'https://x', secret_env: NOT_SET_ANYWHERE}}": "NOT_SET_ANYWHERE is not set",
    "sinks:\n- {name: a, webhook: {url: 'https://x', secret_env: TRACKER_TOKEN}}": "the secret must be base64",
    "sinks:\n- {name: a, webhook: {url: 'https://x', secret_env: HOOK_SECRET, kinds: [alerts]}}": "did you mean alert?",
    "sinks:\n- {name: a, tensorboard: {folder: x}}\n- {name: a, tensorboard: {folder: y}}": "a names two sinks",
    "sinks:\n- {name: a, tensorboard: {folder: x}, existing: perhaps}": "sinks[0].existing: unknown value 'perhaps'",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_a_mistake_is_told_at_its_place(read, text, said):
    with pytest.raises(BadInput) as caught:
        read(text)
    assert caught.value.reason == "SINKS_FILE_INVALID"
    assert said in "\n".join(str(problem) for problem in caught.value.problems)
    assert "t0ken" not in str(caught.value.problems)


def test_plaintext_is_allowed_by_name(read):
    assert read("sinks:\n- {name: a, mlflow: {url: 'http://tracker.example', plaintext: true}}")
