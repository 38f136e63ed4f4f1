# SPDX-License-Identifier: Apache-2.0
"""What a process knows of a store that another one changes too: two of them on one folder and one store."""

import pytest
from finetree_data.objects import units
from finetree_data.objects.bucket import Bucket
from finetree_runtime.errors import DomainError, Unavailable
from finetree_trainer.layout import Layout
from finetree_trainer.objects.cache import Cache
from finetree_trainer.objects.copies import Copies, Unit
from finetree_trainer.objects.uploads import Uploads
from obstore.store import MemoryStore


@pytest.fixture
async def pair(tmp_path):
    """Copies of a replica that leads and of one that follows."""
    store, made = MemoryStore(), []
    for _ in range(2):
        made.append(Copies(Layout(tmp_path / "data"), Bucket(store)))
        await made[-1].load()
    made[1].current = False
    yield made
    for each in made:
        each.close()


def checkpoint(tmp_path, step: int, content: bytes = b"weights"):
    place = tmp_path / "data" / "jobs" / "j1" / "checkpoints" / f"step-{step:08}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "weights.bin").write_bytes(content)
    (place / "manifest.json").write_bytes(content)
    return place


def superseded() -> None:
    raise Unavailable("STORE_UNAVAILABLE", "Another replica leads.")


async def nothing_in_use() -> set:
    return set()


def names(copies, place) -> set[str]:
    return set(copies.below(place.parent))


async def test_what_another_replica_has_put_or_removed_is_learned(tmp_path, pair):
    leader, follower = pair
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    await leader.upload(Unit(first, {}))
    await follower.catch_up(first.parent)
    assert names(follower, first) == {first.name}
    await leader.upload(Unit(second, {}))
    await leader.remove(first)
    await follower.learn()
    assert names(follower, first) == {second.name}
    assert follower.current
    # From then on it alone changes the store, and does not ask again.
    await leader.remove(second)
    await follower.catch_up(first.parent)
    assert names(follower, first) == {second.name}


async def test_what_is_removed_or_put_while_the_store_is_read_counts(tmp_path, pair, monkeypatch):
    leader, _ = pair
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    await leader.upload(Unit(first, {}))
    found, done = units.find_below, []

    def read(bucket, folder):  # noqa: ANN202 - as the function
        seen = found(bucket, folder)
        # After the store was read, before the answer is taken.
        manifest = units.describe("jobs/j1/checkpoints/step-00000002", second, {})
        units.upload(bucket, manifest, second)
        leader._note(manifest)
        units.remove(bucket, "jobs/j1/checkpoints/step-00000001")
        leader._forget(first)
        done.append(seen)
        return seen

    monkeypatch.setattr(units, "find_below", read)
    await leader.learn()
    assert len(done[0][0]) == 1
    assert names(leader, first) == {second.name}


async def test_a_copy_that_another_replica_has_replaced_is_fetched_as_it_is_now(tmp_path, pair):
    leader, follower = pair
    place = checkpoint(tmp_path, 1)
    await leader.upload(Unit(place, {}))
    await follower.refresh(place.parent)
    checkpoint(tmp_path, 1, b"another")
    await leader.upload(Unit(place, {}))
    assert leader.drop(place)
    await follower.ensure(place)
    assert (place / "weights.bin").read_bytes() == b"another"
    assert leader.drop(place)
    await leader.remove(place)
    await follower.ensure(place)
    assert not place.exists()
    assert names(follower, place) == set()


async def test_a_unit_that_another_replica_fetches_first_is_left_as_it_is(tmp_path, pair, monkeypatch):
    leader, follower = pair
    place = checkpoint(tmp_path, 1)
    await leader.upload(Unit(place, {}))
    assert leader.drop(place)
    fetch = units.fetch

    def late(bucket, manifest, draft) -> None:
        fetch(bucket, manifest, draft)
        if not place.exists():
            fetch(bucket, manifest, place)
            (place / "mine").touch()

    monkeypatch.setattr(units, "fetch", late)
    await follower.ensure(place)
    assert (place / "mine").exists()
    assert list((tmp_path / "data" / "transfers").glob("*/*")) == []


async def test_a_replica_that_leads_no_more_removes_nothing(tmp_path, pair):
    former, leader = pair
    place = checkpoint(tmp_path, 1)
    await former.upload(Unit(place, {}))
    former.require_lead = superseded
    checkpoint(tmp_path, 1, b"another")
    for change in (
        former.remove(place),
        former.remove_below(tmp_path / "data" / "jobs" / "j1"),
        former.upload(Unit(place, {})),
    ):
        with pytest.raises(DomainError, match="leads"):
            await change
    checkpoint(tmp_path, 1)
    with pytest.raises(DomainError, match="leads"):
        former.drop(place)
    assert place.is_dir()
    await leader.learn()
    assert names(leader, place) == {place.name}


async def test_what_is_not_known_yet_after_a_change_of_leader_is_removed_all_the_same(tmp_path, pair):
    former, leader = pair
    place = checkpoint(tmp_path, 1)
    await former.upload(Unit(place, {}))
    leader.take_over()
    await leader.remove(place)
    await former.learn()
    assert names(former, place) == set()


async def test_nothing_is_dropped_before_the_former_leader_has_ended(tmp_path, pair):
    _, leader = pair
    place = checkpoint(tmp_path, 1)
    await leader.upload(Unit(place, {}))
    cache = Cache(leader, 1, nothing_in_use, recent=-1.0)
    leader.take_over()
    await leader.learn()
    await cache.trim()
    assert place.is_dir()
    leader.settled = True
    await cache.trim()
    assert not place.exists()


async def test_the_store_is_read_once_more_when_the_former_leader_has_ended(tmp_path, pair, store):
    former, leader = pair
    place = checkpoint(tmp_path, 1)
    await leader.upload(Unit(place, {}))
    leader.take_over()
    uploads = Uploads(_Log(store), Layout(tmp_path / "data"), leader, nothing_in_use)
    await uploads._round()
    assert leader.current
    assert not leader.settled
    await former.learn()
    await former.remove(place)  # the last thing that it did
    uploads.settle()
    await uploads._round()
    assert leader.settled
    assert names(leader, place) == set()


class _Log:
    def __init__(self, store) -> None:
        self.store, self.followers = store, []
