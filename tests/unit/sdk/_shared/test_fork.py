# SPDX-License-Identifier: Apache-2.0
"""The gate that unary calls pass: closed before a fork, open after it. The forks themselves are in robustness."""

import threading

import finetree
import pytest
from finetree._shared import fork
from finetree._shared.fork import ForkGate

SECONDS = 60


class Fork(threading.Thread):
    """Goes through the hooks of a fork, and stops where the fork would be."""

    def __init__(self, gate: ForkGate) -> None:
        super().__init__(daemon=True)
        self.gate, self.there, self.on = gate, threading.Event(), threading.Event()

    def run(self) -> None:
        self.gate.before_fork()
        self.there.set()
        self.on.wait(SECONDS)
        self.gate.after_in_parent()


def caller(gate, entered):
    def call() -> None:
        with gate.call():
            entered.set()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_fork_waits_for_calls_in_flight_and_holds_new_ones_back():
    gate, entered = ForkGate(), threading.Event()
    with gate.call():
        forking = Fork(gate)
        forking.start()
        assert not forking.there.wait(0.1)
    assert forking.there.wait(SECONDS)
    thread = caller(gate, entered)
    assert not entered.wait(0.1)
    forking.on.set()
    assert entered.wait(SECONDS)
    thread.join(SECONDS)
    forking.join(SECONDS)


def test_a_call_that_does_not_end_delays_a_fork_only_so_long(monkeypatch):
    monkeypatch.setattr(fork, "LONGEST_WAIT", 0.1)
    gate = ForkGate()
    with gate.call():
        forking = Fork(gate)
        forking.on.set()
        forking.start()
        assert forking.there.wait(SECONDS)
        forking.join(SECONDS)


def test_an_idle_client_does_not_delay_a_fork(monkeypatch):
    monkeypatch.setattr(fork, "LONGEST_WAIT", 10 * SECONDS)
    forking = Fork(ForkGate())
    forking.on.set()
    forking.start()
    forking.join(SECONDS)
    assert not forking.is_alive()


def test_a_child_starts_afresh():
    gate, holder = ForkGate(), Holder()
    gate.register(holder)
    gate.after_in_child()
    assert (holder.forgotten, gate.generation) == (1, 1)
    with gate.call():
        gate.check(aio=True)


def test_a_child_of_an_open_async_client_refuses_async_calls_and_says_what_to_do():
    gate, channel = ForkGate(), Holder()
    gate.opened(channel)
    gate.after_in_child()
    gate.check(aio=False)
    with pytest.raises(finetree.ForkedClientError, match=r"close the AsyncClient before the fork.*spawn"):
        gate.check(aio=True)


def test_a_closed_async_client_is_no_hindrance():
    gate, channel = ForkGate(), Holder()
    gate.opened(channel)
    gate.closed(channel)
    gate.after_in_child()
    gate.check(aio=True)


class Holder:
    """Something with channels."""

    def __init__(self) -> None:
        self.forgotten = 0

    def drop_channels(self) -> None:
        self.forgotten += 1
