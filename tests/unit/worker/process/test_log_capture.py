# SPDX-License-Identifier: Apache-2.0
"""What libraries say: errors into the job's events, without our folders; all to the worker's file; none to stderr."""

import logging
import warnings

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import StorageError
from finetree_worker.process import log_capture
from finetree_worker.process.log_capture import LogCapture, log_event, logs_of_task, set_environment
from finetree_worker.process.redaction import Redaction


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


def fail(text: str) -> None:
    raise RuntimeError(text)


@pytest.fixture
def captured():
    """The root logger as a worker's is; afterwards as it was."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield log_capture.capture()
    root.handlers, level = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_warnings_go_to_the_logs_alone(tmp_path, captured):
    lines = Lines()
    captured.connect(lines)
    with logs_of_task(tmp_path, Redaction()):
        logging.getLogger("another.library").warning("use kernels")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("`past_key_values` is deprecated", FutureWarning, stacklevel=1)
    assert lines.texts == []
    for name in ("worker.log", "job.log"):
        written = (tmp_path / name).read_text()
        assert "WARNING another.library use kernels" in written
        assert "past_key_values" in written


def test_the_job_s_log_has_its_events_and_traces_but_no_secret_path_or_user_s_text(tmp_path, captured):
    lines = Lines()
    captured.connect(lines)
    redact = Redaction(folders=["/srv/my data/jobs"], secrets=["q8Zt-attempt-token"])
    events = [
        event_pb2.JobEvent(
            kind=event_pb2.EVENT_KIND_STEP_METRICS, message="step 1/2", level=event_pb2.EVENT_LEVEL_INFO
        ),
        event_pb2.JobEvent(kind=event_pb2.EVENT_KIND_ALERT, message="odd loss", level=event_pb2.EVENT_LEVEL_WARNING),
        event_pb2.JobEvent(kind=event_pb2.EVENT_KIND_SAMPLE, message="a user's prompt"),
    ]
    with logs_of_task(tmp_path, redact):
        for event in events:
            log_event(event)
        try:
            fail("cannot open /srv/my data/jobs/1/x.bin with q8Zt-attempt-token")
        except RuntimeError:
            logging.getLogger("finetree_worker.process").exception("the task failed")
    written = (tmp_path / "job.log").read_text()
    assert "INFO finetree_worker.job step 1/2\n" in written
    assert "WARNING finetree_worker.job odd loss\n" in written
    assert "RuntimeError: cannot open 1/x.bin with [hidden]" in written
    assert 'File "test_log_capture.py", line' in written
    for hidden in ("/srv", "q8Zt", "prompt", str(tmp_path)):
        assert hidden not in written
    assert "/srv/my data/jobs/1/x.bin" in (tmp_path / "worker.log").read_text()
    assert lines.texts == []


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


def test_a_full_disk_loses_lines_of_the_logs_and_nothing_else(tmp_path, captured, monkeypatch):
    captured.connect(Lines())
    with logs_of_task(tmp_path, Redaction()):
        monkeypatch.setattr(log_capture.LogFile, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        logging.getLogger("some.library").warning("lost")


def test_a_gpu_s_segments_expand_where_the_operator_says_nothing_else():
    silent, told = {}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}
    set_environment(silent)
    set_environment(told)
    assert silent["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert told["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:False"
