# SPDX-License-Identifier: Apache-2.0
"""`finetree recommend` in all its forms against the fake suite: explained, interviewed, drawn."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from finetree import Client, NotFound, Violation
from finetree.testing import Suite
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_cli import __main__ as entry

ASK = ("recommend", "--model", "small", "--cpu")


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


class Keyboard(io.StringIO):
    """Typed lines, as a terminal gives them."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def command(*words: str, answers: io.StringIO | str = "") -> tuple[int, str, str]:
        typed = answers if isinstance(answers, io.StringIO) else io.StringIO(answers)
        monkeypatch.setattr("sys.stdin", typed)
        code = entry.run([*words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return command


@pytest.fixture
def asked(monkeypatch) -> list[Any]:
    """The requests that the recommender got."""
    seen: list[Any] = []
    recommend = Client.recommend

    def remember(client: Client, request: recommendation_pb2.RecommendRequest) -> recommendation_pb2.RecommendResponse:
        seen.append(request)
        return recommend(client, request)

    monkeypatch.setattr(Client, "recommend", remember)
    return seen


def test_the_short_answer_stays_on_one_screen(run):
    code, out, _ = run(*ASK)
    assert code == 0
    assert len(out.splitlines()) <= 12
    assert "--explain" in out
    assert "Next: finetree recommend --model small --cpu --output job.yaml" in out


def test_without_a_method_nothing_is_written_and_the_exit_code_is_3(run, monkeypatch, tmp_path):
    def nothing(*_: Any) -> recommendation_pb2.RecommendResponse:
        return recommendation_pb2.RecommendResponse(
            verdict=recommendation_pb2.Verdict(headline="Nothing trains here"),
            cautions=[recommendation_pb2.Caution(code="X", message="divide it (hardware.sharding)")],
        )

    monkeypatch.setattr(Client, "recommend", nothing)
    for words in ((), ("--explain",), ("--json",)):
        code, out, said = run(*ASK, "--output", "job.yaml", *words)
        assert code == 3
        assert "Nothing trains here" in out
        assert "job.yaml is not written" in said
        assert not (tmp_path / "job.yaml").exists()
        assert ("--sharding" in out) is (words != ("--json",))


def test_an_explanation_has_every_part_without_color(run):
    code, out, said = run(*ASK, "--explain")
    assert (code, said) == (0, "")
    for title in ("Recommendation: LoRA", "Inputs", "Decision", "Methods", "Confidence", "Recipe", "Computed with"):
        assert any(line.strip().startswith(title) for line in out.splitlines()), title
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("form", "begins"), [("text", "How fake-1 decides"), ("mermaid", "flowchart TD"), ("svg", "<svg")]
)
def test_a_tree_is_the_answer_or_a_file(run, tmp_path, form, begins):
    code, out, _ = run(*ASK, "--tree", form)
    assert code == 0
    assert out.startswith(begins)
    code, out, _ = run(*ASK, "--tree", form, "--tree-output", "tree")
    assert code == 0
    assert out.startswith("LoRA fits")
    assert (tmp_path / "tree").read_text(encoding="utf-8").startswith(begins)


def test_a_tree_as_json_has_its_nodes_and_marks(run):
    code, out, _ = run(*ASK, "--tree", "text", "--json")
    assert code == 0
    assert '"taken_ids": [\n    "fake"\n  ]' in out


def test_the_frontier_is_written(run, tmp_path):
    code, _, _ = run(*ASK, "--frontier", "methods.svg")
    assert code == 0
    assert "<svg" in (tmp_path / "methods.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--tree-output", "x"), "--tree-output needs --tree"),
        (("--tree", "text", "--explain"), "--tree and --explain"),
        (("--frontier", "missing/x.svg"), "--frontier missing/x.svg: No such file or directory"),
        (("--tree", "svg", "--tree-output", "missing/x"), "--tree-output missing/x: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, words, fact):
    code, out, said = run(*ASK, *words)
    assert (code, out) == (2, "")
    assert fact in said


@pytest.mark.parametrize(
    ("answers", "quality"),
    [
        ("1\n\n", recommendation_pb2.QUALITY_NEED_CRITICAL),
        ("experimental\n\n", recommendation_pb2.QUALITY_NEED_EXPERIMENTAL),
        ("exp\n\n", recommendation_pb2.QUALITY_NEED_EXPERIMENTAL),
        ("\n\n", recommendation_pb2.QUALITY_NEED_UNSPECIFIED),
        ("9\nnonsense\n2\n\n", recommendation_pb2.QUALITY_NEED_EXPERIMENTAL),
        ("1\nb\n2\n\n", recommendation_pb2.QUALITY_NEED_EXPERIMENTAL),
        ("b\n1\n", recommendation_pb2.QUALITY_NEED_CRITICAL),
        ("1", recommendation_pb2.QUALITY_NEED_CRITICAL),
    ],
)
def test_answers_on_stdin_become_inputs(run, asked, answers, quality):
    code, out, said = run(*ASK, "--interactive", answers=answers)
    assert code == 0, said
    assert [request.quality for request in asked] == [quality]
    assert out.startswith("LoRA fits")
    assert "How important is quality?" in said
    word = {
        recommendation_pb2.QUALITY_NEED_CRITICAL: "critical",
        recommendation_pb2.QUALITY_NEED_EXPERIMENTAL: "experimental",
    }
    options = f" --quality {word[quality]}" if quality else ""
    assert f"Next: finetree recommend --model small --cpu{options} --output job.yaml\n" in out


def test_a_question_that_a_flag_answers_is_not_asked(run, asked):
    code, _, said = run(*ASK, "--quality", "maximum", "--interactive", answers="\n")
    assert code == 0
    assert asked[0].quality == recommendation_pb2.QUALITY_NEED_MAXIMUM
    assert "How important is quality?" not in said


def test_an_empty_input_is_an_error_and_quitting_an_interruption(run):
    code, out, said = run(*ASK, "--interactive")
    assert (code, out) == (2, "")
    assert "--interactive" in said
    code, out, _ = run(*ASK, "--interactive", answers=Keyboard("q\n"))
    assert (code, out) == (130, "")


def test_a_services_error_names_options_and_commands(run, monkeypatch):
    def refuse(*_: Any) -> None:
        text = (
            "hardware.count: no accelerator 'x'; ListAccelerators lists all, hardware.unknown_accelerator accepts any"
        )
        raise NotFound(text, reason="ACCELERATOR_NOT_FOUND", violations=(Violation("hardware.count", "too many"),))

    monkeypatch.setattr(Client, "recommend", refuse)
    code, _, said = run(*ASK)
    assert code == 2
    assert "--devices: no accelerator 'x'; `finetree gpus` lists all, --gpu-memory accepts any" in said
    assert "--devices: too many" in said
    assert said.count("finetree gpus") == 1
