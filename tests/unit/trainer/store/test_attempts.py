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


def test_what_projects_held_since_a_time(store, new_row, create_job):
    create_job(new_row("j1", project="a"))
    for number, (started, ended) in enumerate(((1, 4), (5, 8), (9, 0)), start=1):
        row = attempts.AttemptRow("j1", number, "h", f"w{number}", "wh", 42, "n/cuda:0/0,n/cuda:1/0", started=started)
        store.submit(lambda connection, row=row: attempts.create(connection, row)).result()
        if ended:
            end = {"cause": "SYSTEM", "now": ended}
            store.submit(lambda c, number=number, end=end: attempts.end(c, "j1", number, **end)).result()
    found = store.submit(lambda connection: attempts.holdings_since(connection, 5)).result()
    held = [("a", "n/cuda:0/0,n/cuda:1/0", 5, 8), ("a", "n/cuda:0/0,n/cuda:1/0", 9, 0)]
    assert sorted((each.project, each.slots, each.started, each.ended) for each in found) == held
