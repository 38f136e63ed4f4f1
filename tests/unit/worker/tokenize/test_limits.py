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
GRACE_ON_A_BUSY_MACHINE = 120.0
"""Processor seconds until the kernel ends the process, which is that of the tests here."""


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
    monkeypatch.setattr(limits, "GRACE_SECONDS", GRACE_ON_A_BUSY_MACHINE)
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
    monkeypatch.setattr(limits, "GRACE_SECONDS", GRACE_ON_A_BUSY_MACHINE)
    monkeypatch.setattr(RowTokenizer, "block", spin)
    given = TableInput(RowSource(write_rows(chat_rows)), tokenizer, LossOn.COMPLETIONS)
    try:
        with pytest.raises(DataError) as error:
            tokenized(given, tmp_path / "scratch", lambda *_: None)
    finally:
        ended.set()
    assert error.value.reason == "TOKENIZATION_LIMIT"


def test_every_block_has_the_limits_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOCK_SECONDS", 100.0)
    with limits.limited() as held:
        for row in (1, 513):
            held.begin(row)
            sum(range(3_000_000))
            assert 90 < signal.getitimer(signal.ITIMER_PROF)[0] <= 100
            assert held.first_row == row


@pytest.mark.parametrize(("attack", "said"), [(LOOPS, "0.5 s of processor time"), (GROWS, "2 GiB of memory")])
def test_a_single_conversation_is_limited_too_as_when_a_served_model_is_asked(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, *, attack: str, said: str
) -> None:
    monkeypatch.setattr(limits, "CALL_SECONDS", 0.5 if attack is LOOPS else 30.0)
    monkeypatch.setattr(limits, "GRACE_SECONDS", GRACE_ON_A_BUSY_MACHINE)
    hostile = copy.deepcopy(tokenizer)
    hostile.chat_template = attack + tokenizer.chat_template
    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_CPU)
    before = [resource.getrlimit(kind) for kind in kinds]
    with pytest.raises(PlanError, match=f"Rendering these messages took more than {said}") as error:
        ChatTemplate(hostile).render([{"role": "user", "content": "a"}], None, prompt=True, plain=True)
    assert error.value.reason == "TOKENIZATION_LIMIT"
    assert [resource.getrlimit(kind) for kind in kinds] == before
    assert not limits.held()


def test_what_never_comes_back_to_python_is_ended_by_the_kernel() -> None:
    program = (
        "import collections, itertools\n"
        "from finetree_worker.tokenize import limits\n"
        "limits.BLOCK_SECONDS, limits.GRACE_SECONDS = 0.25, 0.0\n"
        "with limits.limited() as held:\n"
        "    held.begin(1)\n"
        "    collections.deque(itertools.repeat(0), maxlen=0)\n"
    )
    child = subprocess.run((sys.executable, "-c", program), check=False, capture_output=True, timeout=120)
    assert child.returncode == -signal.SIGXCPU
