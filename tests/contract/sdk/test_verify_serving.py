# SPDX-License-Identifier: Apache-2.0
"""`Client.verify_serving` against a server on loopback, by both clients: an honest one and others."""

import pickle

import finetree
import pytest
from finetree import ServingVerdict
from finetree.testing import Script
from finetree_api.trainer.v1 import event_pb2
from openai_like import BASE, SAMPLES, TUNED


@pytest.fixture
def verify(do, suite, server, monkeypatch):
    """`verify(**options)`: the report of the server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    told = [event_pb2.Sample(prompt=prompt, before=old, after=new) for prompt, (old, new) in SAMPLES.items()]
    suite.trainer.script = Script(steps=2, samples=tuple(told))
    suite.base_models.add(BASE)
    rows = suite.datasets.add([{"prompt": "a", "completion": "b"}])
    spec = {"model": {"hub": {"id": BASE}}, "lora": {}, "training": {"epochs": 1}, "dataset": {"name": rows.name}}
    client = do.client()
    job = do(client.create_job(spec))
    do(job.wait())
    return lambda **options: do(client.verify_serving(server[1], job, **options))


def test_an_honest_server_is_reported_with_every_prompt(verify):
    steps: list[tuple[int, int]] = []
    report = verify(on_progress=lambda *step: steps.append(step))
    assert (report.verdict, report.base, report.adapter) == (ServingVerdict.SERVED, BASE, TUNED)
    assert (len(report.canaries), report.matching) == (7, 3)
    assert all(canary.differs for canary in report.canaries)
    assert {each.prompt: each.answer for each in report.samples} == {p: after for p, (_, after) in SAMPLES.items()}
    assert steps == [(done, 10) for done in range(1, 11)]


def test_an_adapter_without_effect_is_told(verify, server):
    server[0].models[TUNED] = server[0].models[BASE]
    assert verify().verdict is ServingVerdict.NO_EFFECT


def test_a_server_that_answers_otherwise_each_time_decides_nothing(verify, server):
    server[0].jitter = 1
    assert verify().verdict is ServingVerdict.UNDECIDED


def test_a_broken_server_is_not_the_adapters_fault(verify, server):
    server[0].raw = (500, b"out of memory")
    with pytest.raises(finetree.Unavailable, match="500") as caught:
        verify()
    assert caught.value.reason == "SERVER_BROKEN"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status) == (str(caught.value), 500)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"model": "nobody"}, finetree.NotFound),
        ({"base_model": "nobody"}, finetree.NotFound),
        ({"model": BASE}, finetree.InvalidArgument),
    ],
)
def test_names_that_do_not_tell_are_refused(verify, options, kind):
    with pytest.raises(kind):
        verify(**options)


def test_a_key_is_sent_to_loopback_and_not_in_the_clear(do, verify, server):
    verify(key="sk-secret")
    assert server[0].keys == ["Bearer sk-secret"]
    with pytest.raises(finetree.InvalidArgument, match="https") as caught:
        do(do.client().verify_serving("http://llm.example", "1", key="sk-secret"))
    assert "sk-secret" not in str(caught.value)
