# SPDX-License-Identifier: Apache-2.0
"""A chat template that loops, or builds a huge text, ends the task with a reason, and nothing else is limited."""

import copy
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.errors import DataError, PlanError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize import limits
from finetree_worker.tokenize.cache import TableInput, tokenized
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.rows import RowSource
from finetree_worker.tokenize.tokenizer import RowTokenizer

LOOPS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
GROWS = (
    "{% set ns = namespace(t='x' * 1000) %}{% for a in range(40) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}"
)


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Processor seconds after which the kernel would end the process, as they are asked for.

    Never asked of the kernel: this process is that of many other tests. The program at the end asks it.
    """
    asked: list[float] = []
    monkeypatch.setattr(limits, "_end_after", asked.append)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 30)
    return asked


@pytest.mark.parametrize(
    ("attack", "said"), [(LOOPS, "processor time"), (GROWS, "of memory"), ("{{ 'x' * 4000000000 }}", "of memory")]
)
def test_a_hostile_template_is_ended_with_its_row(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    attack: str,
    said: str,
) -> None:
    monkeypatch.setattr(limits, "BLOCK_SECONDS", 1.0 if attack is LOOPS else 30.0)
    hostile = copy.deepcopy(tokenizer)
    hostile.chat_template = attack + tokenizer.chat_template
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)
    given = TableInput(RowSource(write_rows(chat_rows)), hostile, LossOn.COMPLETIONS)
    with pytest.raises(DataError, match=f"from row 1 on took more than .*{said}") as error:
        tokenized(given, tmp_path / "scratch", lambda *_: None)
    assert error.value.reason == "TOKENIZATION_LIMIT"
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_tokenizer_that_takes_too_long_on_its_own_thread_is_not_waited_for(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def spin(*_: object) -> None:
        while not ended.is_set():
            pass

    monkeypatch.setattr(limits, "BLOCK_SECONDS", 0.5)
    monkeypatch.setattr(RowTokenizer, "block", spin)
    given = TableInput(RowSource(write_rows(chat_rows)), tokenizer, LossOn.COMPLETIONS)
    try:
        with pytest.raises(DataError) as error:
            tokenized(given, tmp_path / "scratch", lambda *_: None)
    finally:
        ended.set()
    assert error.value.reason == "TOKENIZATION_LIMIT"


def test_every_block_has_the_limits_anew(monkeypatch: pytest.MonkeyPatch, ends: list[float]) -> None:
    monkeypatch.setattr(limits, "BLOCK_SECONDS", 100.0)
    with limits.limited() as held:
        for row in (1, 513):
            held.begin(row)
            sum(range(3_000_000))
            assert 90 < signal.getitimer(signal.ITIMER_PROF)[0] <= 100
            assert held.first_row == row
    assert ends == [205.0, 205.0]


@pytest.mark.parametrize(("attack", "said"), [(LOOPS, "0.5 s of processor time"), (GROWS, "1 GiB of memory")])
def test_a_single_conversation_is_limited_too_as_when_a_served_model_is_asked(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, *, attack: str, said: str
) -> None:
    monkeypatch.setattr(limits, "CALL_SECONDS", 0.5 if attack is LOOPS else 30.0)
    hostile = copy.deepcopy(tokenizer)
    hostile.chat_template = attack + tokenizer.chat_template
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(PlanError, match=f"Rendering these messages took more than {said}") as error:
        ChatTemplate(hostile).render([{"role": "user", "content": "a"}], None, prompt=True, plain=True)
    assert error.value.reason == "TOKENIZATION_LIMIT"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert not limits.held()


ENDLESS = """
import collections, itertools, resource
from finetree_worker.tokenize import limits

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file beside the tests
before = resource.getrlimit(resource.RLIMIT_CPU)
with limits.limited_call("This"):
    assert 20 < resource.getrlimit(resource.RLIMIT_CPU)[0] < 60
assert resource.getrlimit(resource.RLIMIT_CPU) == before
limits.BLOCK_SECONDS, limits.GRACE_SECONDS = 0.25, 0.0
with limits.limited() as held:
    held.begin(1)
    held.begin(513)
assert resource.getrlimit(resource.RLIMIT_CPU) == before
print("restored", flush=True)
with limits.limited() as held:
    held.begin(1)
    collections.deque(itertools.repeat(0), maxlen=0)
"""
"""A program that is limited as often as it likes, and ended in the code of a library."""


def test_what_never_comes_back_to_python_is_ended_by_the_kernel() -> None:
    child = subprocess.run((sys.executable, "-c", ENDLESS), check=False, capture_output=True, timeout=120)
    assert (child.returncode, child.stdout) == (-signal.SIGXCPU, b"restored\n"), child.stderr
