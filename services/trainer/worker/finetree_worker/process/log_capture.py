# SPDX-License-Identifier: Apache-2.0
"""Capture of logging and warnings: all goes to the worker's logs, errors into the job's events too, nothing to stderr.

Warnings of libraries are for programmers: they name arguments and versions that whoever follows a job never chose.
Users of the job get the worker's own alerts, and the job's log if they look into it. It has a line for each event
beside what libraries say, and neither secrets nor folders of this machine; the operator's log has everything as it was
said. Both are of bounded size.
"""

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from finetree_api.trainer.v1 import event_pb2
from finetree_data.exchange.log_file import JOB_LOG, OPERATOR_LOG, LogFile

from finetree_worker.errors import StorageError
from finetree_worker.events.envelope import Reporter
from finetree_worker.process.redaction import Redaction

ENVIRONMENT = {
    "GRPC_VERBOSITY": "ERROR",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "BITSANDBYTES_NOWELCOME": "1",
    # Otherwise a GPU's allocator keeps blocks of shorter rows that longer ones cannot use.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""Environment variables that libraries read on import; what the operator has set stays."""
_MAX_TEXT = 2000
_HELD_BACK = 200


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set ENVIRONMENT's variables; must come before the first import of grpc or a training library."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)


class LogCapture(logging.Handler):
    """Turns errors in the log into events of the job. The first 200 from before there is a task are held back."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._reporter: Reporter | None = None
        self._held: list[event_pb2.LogLine] = []
        self._redact = Redaction.of_process()
        self._inside = threading.local()

    def connect(self, reporter: Reporter) -> None:
        """Hand records to the reporter from now on, the held ones first."""
        self._reporter = reporter
        for line in self._held:
            reporter.emit(line, level=event_pb2.EVENT_LEVEL_ERROR)
        self._held.clear()

    def disconnect(self) -> None:
        """Stop reporting records: the task has its last event."""
        self._reporter = None

    def forget(self) -> None:
        """Drop what was held back: it is of a task that has ended, and must not be told to the next one's job."""
        self._held.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record of a library; the worker's own messages are events already.

        What is logged while a record is being reported is dropped: reporting it would log again, without end.
        """
        if getattr(self._inside, "busy", False) or record.name.startswith("finetree_worker"):
            return
        self._inside.busy = True
        try:
            line = event_pb2.LogLine(logger=record.name, text=self._redact(record.getMessage())[:_MAX_TEXT])
            if self._reporter is not None:
                with suppress(StorageError):
                    self._reporter.emit(line, level=event_pb2.EVENT_LEVEL_ERROR)
            elif len(self._held) < _HELD_BACK:
                self._held.append(line)
        finally:
            self._inside.busy = False


def capture() -> LogCapture:
    """Route logging and warnings of this process. Call once."""
    handler = LogCapture()
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    # bitsandbytes says at each 8-bit product that bfloat16 goes through float16; that is how its products work.
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast", category=UserWarning)
    for chatty in ("httpx", "httpx2", "urllib3", "filelock", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return handler


def adopt_library_loggers() -> None:
    """Remove the handlers that libraries install on import, so that their records reach the root logger."""
    for name in ("transformers", "huggingface_hub", "bitsandbytes", "accelerate", "peft", "torch"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class BoundedLog(logging.Handler):
    """Writes records, stack traces too, to a log of bounded size. A disk that is full loses them and stops nothing."""

    def __init__(self, folder: Path, name: str, redact: Redaction | None = None) -> None:
        super().__init__()
        self._file, self._redact = LogFile(folder, name), redact
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with suppress(OSError):
            text = self.format(record)
            self._file.write(text if self._redact is None else self._redact(text))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def logs_of_task(folder: Path, redact: Redaction) -> Iterator[None]:
    """Write everything to the two logs in a task's folder: the operator's as it is, the job's as `redact` makes it."""
    handlers = (BoundedLog(folder, OPERATOR_LOG), BoundedLog(folder, JOB_LOG, redact))
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def log_event(event: event_pb2.JobEvent) -> None:
    """Write an event of the task as a line of its logs. Texts of users stay out, and what libraries said is there."""
    if event.kind not in _NOT_LOGGED:
        _job.log(_LEVELS.get(event.level, logging.INFO), "%s", event.message)


_job = logging.getLogger("finetree_worker.job")
_NOT_LOGGED = (event_pb2.EVENT_KIND_SAMPLE, event_pb2.EVENT_KIND_LOG_LINE)
_LEVELS = {event_pb2.EVENT_LEVEL_WARNING: logging.WARNING, event_pb2.EVENT_LEVEL_ERROR: logging.ERROR}
