# SPDX-License-Identifier: Apache-2.0
"""What the training thread is told, for each command and for several at once."""

import pytest
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.attach.commands import Commands, Stop
from finetree_worker.control import Signal
from google.protobuf.timestamp_pb2 import Timestamp


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def command(kind, **fields):  # noqa: ANN003 - fields of Command
    return worker_pb2.Command(kind=worker_pb2.CommandKind.Value(f"COMMAND_KIND_{kind}"), **fields)


@pytest.mark.parametrize(
    ("given", "signal", "stop"),
    [
        (command("PAUSE"), Signal.PAUSE, Stop.PAUSE),
        (command("CANCEL"), Signal.CANCEL, Stop.CANCEL),
        (command("CANCEL", save_checkpoint=True), Signal.CANCEL_SAVING, Stop.CANCEL_SAVING),
        (command("FINISH"), Signal.FINISH, Stop.FINISH),
        (command("PREEMPT"), Signal.PAUSE, Stop.INTERRUPT),
        (command("SHUTDOWN"), Signal.SHUTDOWN, Stop.SHUTDOWN),
        (worker_pb2.Command(kind=99), Signal.NONE, Stop.NONE),
    ],
    ids=["pause", "cancel", "cancel saving", "finish", "preempt", "shutdown", "unknown"],
)
def test_each_command_holds_until_the_end(given, signal, stop):
    commands = Commands()
    commands.apply(given)
    assert [commands.poll(), commands.poll()] == [signal, signal]
    assert commands.stop is stop


def test_a_checkpoint_is_handed_out_once():
    commands = Commands()
    commands.apply(command("CHECKPOINT"))
    assert [commands.poll(), commands.poll()] == [Signal.CHECKPOINT, Signal.NONE]


def test_a_cancel_outranks_a_pause_in_either_order():
    for order in (("PAUSE", "CANCEL"), ("CANCEL", "PAUSE")):
        commands = Commands()
        for kind in order:
            commands.apply(command(kind))
        assert commands.stop is Stop.CANCEL


def test_past_its_deadline_a_stop_saves_nothing_more_but_stays_what_it_was():
    clock = Clock()
    commands = Commands(clock)
    commands.end(Stop.INTERRUPT, 10)
    assert commands.poll() is Signal.PAUSE
    clock.now = 10.5
    assert commands.poll() is Signal.CANCEL
    assert commands.stop is Stop.INTERRUPT


def test_the_earlier_of_two_deadlines_holds():
    clock = Clock()
    commands = Commands(clock)
    commands.end(Stop.INTERRUPT, 10)
    commands.end(Stop.PAUSE, 100)
    clock.now = 11
    assert commands.poll() is Signal.CANCEL


def test_a_deadline_of_the_service_is_taken():
    commands = Commands()
    commands.apply(command("PREEMPT", deadline=Timestamp(seconds=1)))
    assert commands.poll() is Signal.CANCEL
    assert commands.stop is Stop.INTERRUPT
