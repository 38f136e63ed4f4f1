# SPDX-License-Identifier: Apache-2.0
"""What libraries say: errors into the job's events, without our folders; all to the worker's file; none to stderr."""

import logging
import warnings

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import StorageError
from finetree_worker.process import log_capture
from finetree_worker.process.log_capture import LogCapture, own_log, set_environment


class Lines:
    """Keeps the lines that are handed on; `then` is called with each."""

    def __init__(self, then=lambda: None) -> None:
        self.texts, self.levels, self.loggers, self._then = [], [], [], then

    def emit(self, payload, *, message="", level=0) -> None:  # noqa: ARG002 - the protocol's signature
        self.texts.append(payload.text)
        self.loggers.append(payload.logger)
        self.levels.append(level)
        self._then()


@pytest.fixture
def logger():
    made = logging.getLogger("some.library")
    made.setLevel(logging.INFO)
    made.propagate = False
    yield made
    made.handlers.clear()


@pytest.fixture
def capture(logger):
    handler = LogCapture()
    logger.addHandler(handler)
    return handler


def test_errors_are_events_and_warnings_are_not(logger, capture):
    lines = Lines()
    capture.connect(lines)
    logger.warning("install %s", "kernels")
    logger.error("broken")
    assert (lines.texts, lines.loggers) == (["broken"], ["some.library"])
    assert lines.levels == [event_pb2.EVENT_LEVEL_ERROR]


def test_warnings_go_to_the_workers_own_file(tmp_path):
    lines = Lines()
    root = logging.getLogger()
    before = root.handlers, root.level
    handler = None
    try:
        log_capture.capture().connect(lines)
        handler = own_log(tmp_path)
        logging.getLogger("another.library").warning("use kernels")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("`past_key_values` is deprecated", FutureWarning, stacklevel=1)
    finally:
        root.handlers, level = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        if handler is not None:
            handler.close()
    assert lines.texts == []
    written = (tmp_path / "worker.log").read_text()
    assert "WARNING another.library use kernels" in written
    assert "past_key_values" in written


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/data/jobs/1/file.py:33: odd", "file.py:33: odd"),
        ("renamed from 'org/model' to '/srv/models/tiny'", "renamed from 'org/model' to 'tiny'"),
        ("see https://example.org/docs/page", "see https://example.org/docs/page"),
        ("1/2 of steps/s", "1/2 of steps/s"),
    ],
)
def test_our_folders_stay_here(logger, capture, said, shown):
    lines = Lines()
    capture.connect(lines)
    logger.error(said)
    assert lines.texts == [shown]


def test_what_is_no_unicode_is_replaced(capture):
    lines = Lines()
    capture.connect(lines)
    capture.handle(logging.makeLogRecord({"name": "some.library", "levelno": logging.ERROR, "msg": "file \udcff"}))
    assert lines.texts == ["file ?"]


def test_what_came_before_the_task_is_handed_on(logger, capture):
    for number in range(300):
        logger.error("early %d", number)
    lines = Lines()
    capture.connect(lines)
    logger.error("late")
    assert len(lines.texts) == 201
    assert (lines.texts[0], lines.texts[-1]) == ("early 0", "late")


def test_a_record_made_while_handing_one_on_does_not_come_back(logger, capture):
    lines = Lines(lambda: logger.error("again"))
    capture.connect(lines)
    logger.error("once")
    assert lines.texts == ["once"]


def test_a_full_disk_does_not_break_whoever_logs(logger, capture):
    def refuse() -> None:
        raise StorageError("DISK_FULL", "full")

    capture.connect(Lines(refuse))
    logger.error("lost")


def test_after_the_outcome_nothing_is_handed_on(logger, capture):
    lines = Lines()
    capture.connect(lines)
    capture.disconnect()
    logger.error("late")
    assert lines.texts == []


def test_the_workers_own_lines_and_stack_traces_go_to_its_file(tmp_path):
    own = logging.getLogger("finetree_worker.test")
    root_handler, lines = LogCapture(), Lines()
    root_handler.connect(lines)
    handler = own_log(tmp_path)
    own.addHandler(root_handler)
    try:
        own.error("failed", exc_info=RuntimeError("/srv/secret"))
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert lines.texts == []
    assert "RuntimeError: /srv/secret" in (tmp_path / "worker.log").read_text()


def test_a_gpu_s_segments_expand_where_the_operator_says_nothing_else():
    silent, told = {}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}
    set_environment(silent)
    set_environment(told)
    assert silent["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert told["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:False"
