# SPDX-License-Identifier: Apache-2.0
"""Errors travel: through pickle, copy and processes, with everything that they carry."""

import copy
import multiprocessing
import pickle

import finetree
import pytest
from finetree import errors
from finetree.errors import BY_CODE, FinetreeError, InvalidSpec, JobFailed, Violation

CLASSES = sorted(
    (cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, FinetreeError)),
    key=lambda cls: cls.__name__,
)
FIELDS = {
    "reason": "SOME_REASON",
    "violations": (Violation("job.spec.training.epochs", "must be more than 0"),),
    "retry_after": 1.5,
    "request_id": "0190",
    "server_version": "0.1.0",
    "metadata": {"oldest_seq": "7"},
}


def example(cls: type[FinetreeError]) -> FinetreeError:
    return cls("epochs is 0; give a number above 0", **FIELDS)


def raise_in_worker(name: str) -> None:
    raise example(getattr(errors, name))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_every_class_survives_copy_and_pickle(cls, travel):
    error = example(cls)
    arrived = travel(error)
    assert type(arrived) is cls
    assert str(arrived) == str(error)
    assert arrived.__dict__ == error.__dict__
    assert arrived.args == error.args


def test_every_class_crosses_a_process_pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for cls in CLASSES:
            with pytest.raises(cls) as caught:
                pool.apply(raise_in_worker, (cls.__name__,))
            assert caught.value.__dict__ == example(cls).__dict__


def test_what_subclasses_carry_travels_too():
    from finetree_api.trainer.v1 import event_pb2, job_pb2

    terminal = event_pb2.Terminal(state=job_pb2.JOB_STATE_FAILED, retryable=True)
    failed = JobFailed("it failed", job="projects/p/jobs/1", terminal=terminal.SerializeToString())
    arrived = pickle.loads(pickle.dumps(failed))
    assert (arrived.job, arrived.terminal) == ("projects/p/jobs/1", terminal)
    assert pickle.loads(pickle.dumps(InvalidSpec("wrong", path="training.epochs"))).path == "training.epochs"


def test_the_text_is_one_line_with_the_fix_and_the_reason():
    error = finetree.InvalidArgument(
        "the request\nis wrong", reason="INVALID_REQUEST", violations=tuple(Violation(f"f{n}", "bad") for n in range(5))
    )
    assert str(error) == "the request is wrong; f0: bad; f1: bad; f2: bad; and 2 more [INVALID_REQUEST]"


def test_a_violation_that_the_message_tells_is_not_told_twice():
    error = finetree.InvalidArgument("name: empty", violations=(Violation("name", "empty"),))
    assert str(error) == "name: empty [INVALID_ARGUMENT]"


def test_a_timeout_is_also_the_languages_own():
    assert issubclass(finetree.DeadlineExceeded, finetree.FinetreeTimeout)
    assert issubclass(finetree.FinetreeTimeout, TimeoutError)


def test_the_table_in_the_docstring_names_every_class_with_its_code():
    table = errors.__doc__ or ""
    for cls in CLASSES:
        assert cls.__name__ in table
    for code, cls in BY_CODE.items():
        assert any(cls.__name__ in line and code in line for line in table.splitlines()), cls
