# SPDX-License-Identifier: Apache-2.0
"""Certificate and key that are read again when their files change; connections that are open keep theirs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from finetree.config.file import file_stamp

CHECK_SECONDS = 1
"""Time between two looks at the files."""
_log = logging.getLogger("finetree_console")


class Certificates:
    """The files of a context with which connections are accepted, as they are at its making."""

    def __init__(self, context: ssl.SSLContext, cert: Path, key: Path) -> None:
        self._context, self._paths = context, (cert, key)
        self._stamps = self._complained = self._look()

    async def refresh(self) -> None:
        """Take changed files for further connections, unless they do not belong together, as amid a renewal."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        try:
            # A context that refuses a key has taken the certificate already: this one is thrown away.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._paths, password="")
            self._context.load_cert_chain(*self._paths, password="")
        except OSError as error:  # ssl.SSLError is one
            if stamps != self._complained:
                _log.error("tls_reload_failed: the old certificate stays in use: %s", error.strerror or error)
            self._complained = stamps
            return
        self._stamps = stamps
        _log.info("tls_reloaded")

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(file_stamp(path) for path in self._paths)
