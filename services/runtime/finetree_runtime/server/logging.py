# SPDX-License-Identifier: Apache-2.0
"""Logging: JSON lines on standard error, also for what libraries log."""

from __future__ import annotations

import contextlib
import logging as stdlib
import sys
from typing import Any

from finetree_runtime.server import context

LEVELS = {"debug": stdlib.DEBUG, "info": stdlib.INFO, "warning": stdlib.WARNING, "error": stdlib.ERROR}
"""Values of the `log_level` setting."""


def configure(level: str) -> None:
    """Log from `level` on, one JSON object a line, and forward what libraries log from WARNING on."""
    _configure_ours(level)
    stdlib.basicConfig(handlers=[_Forward()], level=max(LEVELS[level], stdlib.WARNING), force=True)


def _configure_ours(level: str) -> None:
    structlog = _structlog()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),
        cache_logger_on_first_use=True,
    )


def _add_trace(_logger: Any, _method: str, line: dict[str, Any]) -> dict[str, Any]:
    """Add the ids under which a trace has the call in progress."""
    call = context.CURRENT.get()
    if call is not None and call.trace is not None:
        line["trace_id"], line["span_id"] = call.trace.trace_id, call.trace.span_id
    return line


def get_logger() -> Any:
    """Return the logger: `get_logger().info("job_started", job=name)`; an event is a snake_case name."""
    structlog = _structlog()
    if not structlog.is_configured():
        _configure_ours("info")  # inside another program, whose own logging stays as it is
    return structlog.get_logger()


class _Stderr:
    """Standard error, whatever `sys.stderr` is at the time. A line that cannot be written is lost, no call fails."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


class _Forward(stdlib.Handler):
    """Forwards what libraries log (grpc, asyncio) to our logger, so that all lines have one form."""

    def emit(self, record: stdlib.LogRecord) -> None:
        line = {"logger": record.name, "text": record.getMessage(), "exc_info": record.exc_info}
        log = get_logger()
        (log.error if record.levelno >= stdlib.ERROR else log.warning)("library", **line)


def _structlog() -> Any:
    """Import structlog without rich, which it would load for colored tracebacks (80 ms of start-up)."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog
