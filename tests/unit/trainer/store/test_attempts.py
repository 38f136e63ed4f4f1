# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store
from finetree_trainer.store import attempts


def test_an_attempt_is_acknowledged_ended_and_counted_once(store):
    row = attempts.AttemptRow("j1", 1, "h", "w1", "wh", 42, "cpu/0", started=1)
    store.submit(lambda connection: attempts.create(connection, row)).result()

    def run(work):
        return store.submit(work).result()

    assert run(lambda connection: attempts.acknowledge(connection, row, 5, now=2))
    assert not run(lambda connection: attempts.acknowledge(connection, row, 6, now=2))
    assert run(lambda connection: attempts.load(connection, "j1", 1)).acknowledged == 5
    assert [found.worker for found in run(attempts.open_attempts)] == ["w1"]
    assert run(lambda connection: attempts.end(connection, "j1", 1, cause="SYSTEM", now=3))
    assert not run(lambda connection: attempts.end(connection, "j1", 1, cause="OTHER", now=4))
    assert run(attempts.open_attempts) == []
    assert run(lambda connection: attempts.count_by_cause(connection, "j1", "SYSTEM")) == 1
