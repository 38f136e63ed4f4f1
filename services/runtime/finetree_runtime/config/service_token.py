# SPDX-License-Identifier: Apache-2.0
"""The token with which a service calls another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetree_runtime.config.settings import SettingsError


def service_token(file: Path | None) -> Callable[[], str] | None:
    """Return a function that reads the token in a file, for the SDK's client; None without a file.

    The client calls it with its first call, and again when its token is refused. A file that cannot be read then, for
    example in the moment in which it is replaced, leaves the token that was read last.

    Raises:
        SettingsError: SETTING_INVALID: the file cannot be read now, or is empty.
    """
    if file is None:
        return None
    try:
        last = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError("SETTING_INVALID", f"--service-token-file: cannot read the file: {problem}") from None
    if not last:
        raise SettingsError("SETTING_INVALID", "--service-token-file: the file is empty")

    def read() -> str:
        nonlocal last
        try:
            last = file.read_text(encoding="utf-8").strip() or last
        except (OSError, UnicodeDecodeError):
            return last
        return last

    return read
