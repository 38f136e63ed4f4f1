# SPDX-License-Identifier: Apache-2.0
"""JSON lines on standard error, ours and those of the libraries."""

from __future__ import annotations

import contextlib
import logging as stdlib
import sys
from typing import Any

LEVELS = {"debug": stdlib.DEBUG, "info": stdlib.INFO, "warning": stdlib.WARNING, "error": stdlib.ERROR}
"""Names that the `log_level` setting takes."""


def configure(level: str) -> None:
    """Set the process up to log from `level` on, one JSON object a line, and to take what libraries log."""
    _configure_ours(level)
    stdlib.basicConfig(handlers=[_Forward()], level=max(LEVELS[level], stdlib.WARNING), force=True)


def _configure_ours(level: str) -> None:
    structlog = _structlog()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),
        cache_logger_on_first_use=True,
    )


def get_logger() -> Any:
    """The process's logger: `get_logger().info("job_started", job=name)`; an event is a snake_case name."""
    structlog = _structlog()
    if not structlog.is_configured():
        _configure_ours("info")  # a service inside another program, whose own logging is not ours to change
    return structlog.get_logger()


class _Stderr:
    """Standard error as it is now. A line that cannot be written is lost: no call fails because of its log line."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


class _Forward(stdlib.Handler):
    """Hands what a library logs (grpc's own errors, asyncio's) to our logger, so that all lines have one form."""

    def emit(self, record: stdlib.LogRecord) -> None:
        line = {"logger": record.name, "text": record.getMessage(), "exc_info": record.exc_info}
        log = get_logger()
        (log.error if record.levelno >= stdlib.ERROR else log.warning)("library", **line)


def _structlog() -> Any:
    """Import structlog without rich, which it would load for coloured tracebacks (80 ms of start-up)."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog
