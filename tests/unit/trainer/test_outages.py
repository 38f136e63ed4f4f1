# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.errors import NotFound, ResourceExhausted, Unavailable
from finetree_trainer import outages
from finetree_trainer.outages import Pauses, is_outage, keep_running, until_done

FULL = ResourceExhausted("DISK_FULL", "full", retry_delay=30.0)
LOCKED = Unavailable("STORE_UNAVAILABLE", "locked", retry_delay=1.0)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made, none of which takes time."""
    made = []

    async def note(seconds) -> None:
        made.append(seconds)

    monkeypatch.setattr(outages.asyncio, "sleep", note)
    return made


def failing(*errors: Exception):
    """Work that fails so, one after the other, and then returns "done"."""
    left = list(errors)

    async def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_pauses_double_up_to_the_longest_and_begin_again():
    made = Pauses()
    assert [made.following() for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    made.reset()
    assert made.following() == 0.5


def test_what_an_outage_is():
    assert all(map(is_outage, (FULL, LOCKED, OSError(28, "No space left on device"))))
    assert not any(map(is_outage, (NotFound("JOB_NOT_FOUND", "gone"), ZeroDivisionError())))


async def test_what_must_be_done_is_tried_until_it_is(pauses):
    work = failing(FULL, LOCKED, ZeroDivisionError())
    assert await until_done(work, doing="close_attempt", job="j") == "done"
    assert pauses == [0.5, 1, 2]
    with pytest.raises(NotFound):
        await until_done(failing(NotFound("JOB_NOT_FOUND", "gone")), doing="close_attempt", job="j")


@pytest.mark.parametrize("last", [[], [ZeroDivisionError()]])
async def test_a_loop_goes_on_after_outages_and_dies_of_anything_else(pauses, last):
    deaths = []

    async def on_death() -> None:
        deaths.append(len(pauses))

    await keep_running(failing(FULL, OSError(28, "full"), LOCKED, *last), name="queue", on_death=on_death)
    assert deaths == [3]
