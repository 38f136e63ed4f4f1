# SPDX-License-Identifier: Apache-2.0
from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.money import to_money
from finetree_trainer.jobs.lifecycle.time_limits import broken_limit, has_limits


def test_each_limit_is_named_when_it_is_passed():
    record, live = job_pb2.Job(), job_pb2.Job()
    assert not has_limits(record)
    assert not broken_limit(record, live, 10**15)
    record.deadline.FromMicroseconds(100)
    assert has_limits(record)
    assert not broken_limit(record, live, 100)
    assert broken_limit(record, live, 101).code == "DEADLINE_REACHED"
    record = job_pb2.Job()
    record.limits.max_duration.FromMicroseconds(50)
    assert not broken_limit(record, live, 10**15)
    live.start_time.FromMicroseconds(100)
    assert not broken_limit(record, live, 150)
    assert broken_limit(record, live, 151).code == "MAX_DURATION_REACHED"
    live.paused_duration.FromMicroseconds(20)
    assert not broken_limit(record, live, 170)
    assert broken_limit(record, live, 171)
    live.pause_time.FromMicroseconds(160)
    assert not broken_limit(record, live, 10**15), "the clock of a paused job stands still"
    record = job_pb2.Job()
    record.limits.max_cost.CopyFrom(to_money(2.0, "EUR"))
    live.cost.amount.CopyFrom(to_money(2.0, "EUR"))
    assert not broken_limit(record, live, 0)
    live.cost.amount.CopyFrom(to_money(2.01, "EUR"))
    assert broken_limit(record, live, 0).code == "MAX_COST_REACHED"
