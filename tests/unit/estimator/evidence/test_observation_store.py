# SPDX-License-Identifier: Apache-2.0
import sqlite3

import pytest
from finetree_estimator.evidence import observation_store
from finetree_estimator.evidence.observation_store import FILE_NAME, Observations, Removal, StoredObservation, read_only
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import AlreadyExists


@pytest.fixture
def store(tmp_path):
    opened = Observations(tmp_path)
    yield opened
    opened.close()


def row(number: int, device: str = "t4") -> StoredObservation:
    return StoredObservation(
        job=f"job-{number:03}", attempt=1, device=device, end_time=number, record=b"record", basis="basis", point="{}"
    )


def add(store: Observations, number: int, device: str = "t4", request_id: str = "", body: str = "") -> bool:
    return store.add(row(number, device), request_id, body)[0]


def test_what_was_kept_is_there_after_a_restart(tmp_path):
    first = Observations(tmp_path)
    assert [add(first, n) for n in (2, 1, 3)] == [True] * 3
    first.close()

    assert read_only(tmp_path) == [row(n) for n in (1, 2, 3)]
    again = Observations(tmp_path)
    assert again.rows() == [row(n) for n in (1, 2, 3)]
    again.close()


def test_the_same_job_and_attempt_are_kept_once(store):
    assert (add(store, 1), add(store, 1)) == (True, False)
    assert len(store.rows()) == 1


def test_a_request_id_belongs_to_one_body(store):
    assert add(store, 1, request_id="r", body="a")
    assert not add(store, 1, request_id="r", body="a")
    with pytest.raises(AlreadyExists) as refused:
        add(store, 2, request_id="r", body="b")

    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert len(store.rows()) == 1


def test_a_repetition_does_not_bring_back_what_was_forgotten(store):
    add(store, 1, request_id="r", body="a")
    assert store.forget("") == Removal(1)
    assert not add(store, 1, request_id="r", body="a")
    assert store.rows() == []


def test_a_repeated_request_removes_nothing_again_and_answers_the_same(store):
    add(store, 1)
    first = store.forget("", "r", "all")
    add(store, 2)

    assert (first, store.forget("", "r", "all")) == (Removal(1), Removal(1, repeated=True))
    assert len(store.rows()) == 1
    with pytest.raises(AlreadyExists):
        store.forget("t4", "r", "t4")
    with pytest.raises(AlreadyExists):
        add(store, 3, request_id="r", body="an observation")


def test_one_device_can_be_forgotten(store):
    add(store, 1, "t4")
    add(store, 2, "l4")
    assert store.forget("t4") == Removal(1)
    assert store.rows() == [row(2, "l4")]


def test_the_oldest_of_a_device_go_first_whatever_their_order_of_arrival(store, monkeypatch):
    monkeypatch.setattr(observation_store, "PER_DEVICE", 3)
    add(store, 99, "l4")
    gone = [store.add(row(number), "", "")[1] for number in (5, 1, 4, 3, 2)]

    assert [each.job for each in store.rows()] == ["job-003", "job-004", "job-005", "job-099"]
    assert gone == [[], [], [], [("job-001", 1)], [("job-002", 1)]]


def test_invented_devices_fill_no_disk(store, monkeypatch):
    monkeypatch.setattr(observation_store, "IN_ALL", 4)
    for number in range(10):
        add(store, number, f"device-{number}")
    assert [each.end_time for each in store.rows()] == [6, 7, 8, 9]


def test_request_ids_are_bounded(store, monkeypatch):
    monkeypatch.setattr(observation_store, "REQUEST_IDS", 2)
    for number in range(4):
        add(store, number, request_id=f"r{number}", body="a")
    # The oldest is forgotten; the newest still holds.
    assert add(store, 10, request_id="r0", body="b")
    with pytest.raises(AlreadyExists):
        add(store, 11, request_id="r3", body="b")


def test_a_folder_has_one_writer(store, tmp_path):
    with pytest.raises(SettingsError) as refused:
        Observations(tmp_path)
    assert refused.value.reason == "STATE_DIR_IN_USE"


def test_a_folder_of_a_newer_estimator_is_left_alone(tmp_path):
    Observations(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(SettingsError) as refused:
        Observations(tmp_path)
    assert refused.value.reason == "STATE_DIR_TOO_NEW"


def test_a_file_that_is_no_database_is_refused_and_the_folder_given_free(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(SettingsError) as refused:
            Observations(tmp_path)
        assert refused.value.reason == "STATE_DIR_UNUSABLE"
        assert str(tmp_path) not in str(refused.value)


def test_a_reader_makes_no_file(tmp_path):
    assert read_only(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_others_on_the_machine_cannot_read_it(store, tmp_path):
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


def test_the_tail_of_a_write_that_was_torn_is_cut(tmp_path):
    from shutil import copytree

    store = Observations(tmp_path / "live")
    for number in range(3):
        add(store, number)
    log = f"{FILE_NAME}-wal"
    before = (tmp_path / "live" / log).stat().st_size
    add(store, 3)
    copytree(tmp_path / "live", tmp_path / "torn")
    store.close()
    with (tmp_path / "torn" / log).open("r+b") as stream:
        stream.truncate(before + 100)

    torn = Observations(tmp_path / "torn")
    assert [each.end_time for each in torn.rows()] == [0, 1, 2]
    assert add(torn, 3)
    torn.close()
