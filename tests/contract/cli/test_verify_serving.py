# SPDX-License-Identifier: Apache-2.0
"""`finetree verify-serving` against servers on loopback: an honest one, one that ignores the adapter, broken ones."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import event_pb2
from finetree_cli import __main__ as entry
from openai_like import BASE, SAMPLES, TUNED, Model


@pytest.fixture(scope="module")
def suite() -> Iterator[tuple[Suite, str]]:
    told = [event_pb2.Sample(prompt=prompt, before=old, after=new) for prompt, (old, new) in SAMPLES.items()]
    with Suite() as made:
        made.trainer.script = Script(steps=2, samples=tuple(told))
        made.base_models.add(BASE)
        rows = made.datasets.add([{"prompt": "a", "completion": "b"}])
        spec = {"model": {"hub": {"id": BASE}}, "lora": {}, "training": {"epochs": 1}, "dataset": {"name": rows.name}}
        with made.client() as client:
            job = client.create_job(spec)
            job.wait()
        yield made, job.name


@pytest.fixture
def verify(suite, server, capsys, monkeypatch):
    """`verify(*words)`: exit code, JSON and stderr of the command on the server."""
    made, job = suite
    monkeypatch.setenv("FINETREE_ADDRESS", made.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def command(*words: str) -> tuple[int, Any, str]:
        code = entry.run(["verify-serving", server[1], "--artifact", job, *words, "--json"])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, json.loads(captured.out), captured.err

    return command


def test_an_honest_server_serves_with_an_effect_and_answers_as_in_training(verify):
    code, told, _ = verify()
    assert (code, told["verdict"], told["base"], told["adapter"]) == (0, "SERVED", BASE, TUNED)
    assert told["differing"] == told["canaries"] == 7
    assert (told["samples"], told["samples_as_in_training"], told["largest_noise"]) == (3, 3, 0.0)
    assert not any(prompt in json.dumps(told) for prompt in SAMPLES)


def test_a_server_that_ignores_the_adapter_is_found_out(verify, server):
    server[0].models[TUNED] = server[0].models[BASE]
    code, told, err = verify()
    assert (code, told["verdict"], told["differing"], told["largest_difference"]) == (3, "NO_EFFECT", 0, 0.0)
    assert "SERVED_WITHOUT_EFFECT" in err


def test_an_effect_on_probabilities_alone_is_one(verify, server):
    server[0].models[TUNED] = Model("base", server[0].models[BASE].answers)
    server[0].models[TUNED].shift = 0.01
    _, told, _ = verify()
    assert (told["differing"], told["differing_texts"]) == (7, 0)
    assert told["largest_difference"] == pytest.approx(0.01)
    # Its answers are the base's all the same, which is not what training recorded.
    assert told["verdict"] == "OTHER_ANSWERS"


def test_without_probabilities_texts_are_compared(verify, server):
    server[0].logprobs = False
    assert verify()[1]["largest_difference"] is None
    server[0].models[TUNED] = server[0].models[BASE]
    assert verify()[1]["verdict"] == "NO_EFFECT"


def test_a_server_that_refuses_probabilities_is_asked_without_them(verify, server):
    server[0].refuses_logprobs = True
    code, told, _ = verify()
    assert (code, told["verdict"], told["largest_difference"], told["samples_as_in_training"]) == (0, "SERVED", None, 3)
    server[0].completions = False
    assert verify()[1]["verdict"] == "SERVED"


def test_on_this_suites_own_server_the_job_is_known_by_its_id(verify, server, suite):
    it, uid = server[0], suite[1].rpartition("/")[2]
    mine, other = f"ft:small:default::{uid}", f"ft:small:default::{uid[::-1]}"
    it.models = {"small": it.models[BASE], other: it.models[BASE], mine: it.models[TUNED]}
    it.parents, it.own_form, it.refuses_logprobs = {mine: "small", other: "small"}, True, True
    code, told, _ = verify()
    assert (code, told["base"], told["adapter"], told["verdict"]) == (0, "small", mine, "SERVED")
    it.models[mine] = it.models[other]
    assert verify()[:2][1]["verdict"] == "NO_EFFECT"


def test_an_adapter_of_another_run_answers_otherwise(verify, server):
    server[0].models[TUNED] = Model("other", {})
    code, told, err = verify()
    assert (code, told["verdict"], told["samples_as_in_training"]) == (3, "OTHER_ANSWERS", 0)
    assert "SERVED_OTHERWISE" in err


def test_a_server_that_answers_otherwise_each_time_decides_nothing(verify, server):
    server[0].jitter = 1
    code, told, _ = verify()
    assert (code, told["verdict"]) == (3, "UNDECIDED")


def test_a_server_with_chats_alone_and_one_without_them_are_asked_as_they_can(verify, server):
    server[0].completions = False
    assert verify()[1]["verdict"] == "SERVED"
    server[0].completions, server[0].chats = True, False
    _, told, _ = verify()
    assert (told["verdict"], told["samples"]) == ("SERVED", 0)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ((500, b"out of memory"), "500"),
        ((400, b'{"error": {"message": "no such\\u001b field"}}'), "400 Bad Request: no such field"),
        ((200, b"<html>"), "no JSON"),
        ((200, b'{"choices": []}'), "no text"),
        ((302, b""), "302"),
    ],
)
def test_a_broken_server_is_said_to_be_broken(verify, server, raw, said):
    server[0].raw = raw
    code, told, _ = verify()
    assert (code, told["error"]["reason"]) == (5, "SERVER_BROKEN")
    assert said in told["error"]["message"]


@pytest.mark.parametrize(
    ("change", "words", "ending"),
    [
        (lambda it: it.models.pop(TUNED), [], (3, "NOT_SERVED")),
        (lambda _: None, ["--model", "nobody"], (3, "NOT_SERVED")),
        (lambda _: None, ["--base-model", "nobody"], (3, "NOT_SERVED")),
        (lambda it: it.models.update(third=it.models[TUNED]), [], (2, "INVALID_REQUEST")),
        (lambda _: None, ["--model", BASE], (2, "INVALID_REQUEST")),
        (lambda _: None, ["--api-key-env", "NOT_SET_ANYWHERE"], (2, "INVALID_REQUEST")),
    ],
)
def test_names_that_do_not_tell_are_refused(verify, server, change, words, ending):
    change(server[0])
    code, told, _ = verify(*words)
    assert (code, told["error"]["reason"]) == ending


def test_a_base_under_another_name_is_the_parent_of_its_adapter(verify, server, monkeypatch):
    it = server[0]
    it.models, it.parents = {"served": it.models[BASE], TUNED: it.models[TUNED]}, {TUNED: "served"}
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    code, told, err = verify("--api-key-env", "SERVER_KEY")
    assert (code, told["base"], told["adapter"]) == (0, "served", TUNED)
    assert it.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in json.dumps(told) + err


def test_a_key_is_not_sent_in_the_clear(monkeypatch, suite, capsys):
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    monkeypatch.setenv("FINETREE_ADDRESS", suite[0].address)
    words = ["verify-serving", "http://llm.example", "--artifact", suite[1], "--api-key-env", "SERVER_KEY"]
    assert entry.run(words) == 2
    assert "https" in capsys.readouterr().err
