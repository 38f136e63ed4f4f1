# SPDX-License-Identifier: Apache-2.0
"""Without a server: `python -m finetree_recommender --once` gives the served answers, and no socket is opened."""

import asyncio
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from finetree_api.recommender.v1 import picture_pb2, recommendation_pb2
from finetree_recommender.__main__ import main
from finetree_recommender.estimator.subprocess import EstimatorProgram
from google.protobuf import json_format, proto
from google.protobuf.message import Message
from google.rpc import status_pb2

pytestmark = pytest.mark.service_alone("process")
PROGRAM = [sys.executable, "-m", "finetree_recommender", "--once"]
REQUEST = recommendation_pb2.RecommendRequest(quality=recommendation_pb2.QUALITY_NEED_IMPORTANT)
REQUEST.model.name = "smollm2-135m"
REQUEST.hardware.accelerator = "rtx-4090"
REQUEST.dataset_profile.examples = 500


def ask(content: bytes, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *flags], input=content, capture_output=True, timeout=60, check=False)


@pytest.fixture
def here(monkeypatch, capsysbinary):
    """What `ask` gives, without a process of the recommender's own: its start is paid once, in the first test."""

    def run(content: bytes, *flags: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["finetree_recommender", "--once", *flags])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = main()
        out, error = capsysbinary.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=error)

    return run


def delimited(*messages: Message) -> bytes:
    out = io.BytesIO()
    for message in messages:
        proto.serialize_length_prefixed(message, out)
    return out.getvalue()


def replies(kind: type[Message], content: bytes) -> list[Message]:
    """The responses in a program's output, each of which follows an OK status."""
    source, found = io.BytesIO(content), []
    while (status := proto.parse_length_prefixed(status_pb2.Status, source)) is not None:
        assert not status.code
        found.append(proto.parse_length_prefixed(kind, source))
    return found


async def test_the_program_gives_the_served_answer(client):
    served = await client.recommend(REQUEST)
    done = ask(delimited(REQUEST, REQUEST), "--once-format", "delimited")
    assert (done.returncode, done.stderr) == (0, b"")
    assert replies(recommendation_pb2.RecommendResponse, done.stdout) == [served, served]
    assert served.HasField("estimate")


async def test_a_picture_too(client, here):
    served = await client.render_decision_tree(REQUEST, picture_format="svg")
    question = picture_pb2.RenderDecisionTreeRequest(format=picture_pb2.PICTURE_FORMAT_SVG, request=REQUEST)
    flags = ("--once-format", "delimited", "--once-method", "RenderDecisionTree")
    done = await asyncio.to_thread(here, delimited(question), *flags)
    assert replies(picture_pb2.RenderDecisionTreeResponse, done.stdout) == [served]


def test_a_refusal_is_a_status_and_exit_code_2(here):
    unheard_of = recommendation_pb2.RecommendRequest(hardware=REQUEST.hardware)
    unheard_of.model.name = "unheard-of-9000"
    done = here(json_format.MessageToJson(unheard_of).encode())
    assert (done.returncode, done.stdout) == (2, b"")
    assert json.loads(done.stderr)["details"][0]["reason"] == "MODEL_NOT_FOUND"


def test_a_page_token_outlives_the_program_where_its_key_is_given(here, monkeypatch):
    flags = ("--once-method", "ListRulePacks")
    monkeypatch.setenv("FINETREE_RECOMMENDER_PAGE_TOKEN_KEY", "a key of sixteen characters")
    first = json.loads(here(b'{"page_size": 1}', *flags).stdout)
    second = here(json.dumps({"page_size": 1, "page_token": first["next_page_token"]}).encode(), *flags)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["rule_packs"][0]["id"] != first["rule_packs"][0]["id"]


async def test_without_the_estimator_the_rules_alone_answer(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with EstimatorProgram() as program, pytest.raises(Exception, match="not installed"):
        await program.estimate_batch({})
