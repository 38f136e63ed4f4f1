# SPDX-License-Identifier: Apache-2.0
"""Capture of logging and warnings: all goes to the worker's own log, errors into the job's events, nothing to stderr.

Warnings of libraries are for programmers: they name arguments and versions that whoever follows a job never chose.
Users of the job get the worker's own alerts.
"""

import logging
import os
import re
import threading
import warnings
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import event_pb2

from finetree_worker.errors import StorageError
from finetree_worker.events.envelope import Reporter

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
LOG_NAME = "worker.log"
"""Name of the worker's own log in the task's folder; it alone may hold paths and stack traces."""
_MAX_TEXT = 2000
# Folders of absolute paths, not of addresses such as https://…: they are the operator's business, not the job's.
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:'\"]+/)+")
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

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record of a library; the worker's own messages are events already.

        What is logged while a record is being reported is dropped: reporting it would log again, without end.
        """
        if getattr(self._inside, "busy", False) or record.name.startswith("finetree_worker"):
            return
        self._inside.busy = True
        try:
            line = event_pb2.LogLine(logger=record.name, text=_text(record))
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


def own_log(folder: Path) -> logging.Handler:
    """Write everything, stack traces too, to the worker's own log in `folder`."""
    handler = logging.FileHandler(folder / LOG_NAME, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def _text(record: logging.LogRecord) -> str:
    """Return the record's message without folders; what is not Unicode, such as some file names, is replaced."""
    text = _FOLDERS.sub("", record.getMessage())[:_MAX_TEXT]
    return text.encode("utf-8", "replace").decode("utf-8")
