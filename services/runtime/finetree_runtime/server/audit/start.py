# SPDX-License-Identifier: Apache-2.0
"""Begin the audit log of a service as its settings say."""

from __future__ import annotations

from pathlib import Path

from finetree_runtime.config.settings import ServiceSettings, SettingsError
from finetree_runtime.server.audit.calls import Auditor
from finetree_runtime.server.audit.files import FolderInUseError
from finetree_runtime.server.audit.log import AuditLog


def start_auditor(service: str, version: str, settings: ServiceSettings) -> Auditor:
    """Open a service's audit log, whose first record of this run names the service; without one, record nothing.

    Raises SettingsError SETTING_INVALID, AUDIT_DIR_IN_USE, AUDIT_DIR_UNUSABLE.
    """
    folder = _folder(service, settings)
    mode = "changes" if settings.audit == "auto" else settings.audit
    if folder is None or mode == "off":
        if settings.audit in ("changes", "all"):
            raise SettingsError("SETTING_INVALID", f"audit: {settings.audit} needs a folder: set audit_dir")
        if settings.audit_required:
            raise SettingsError("SETTING_INVALID", "audit_required: there is no log: set audit_dir, and leave audit on")
        return Auditor()
    try:
        log = AuditLog.at(folder, max(1, settings.audit_file_bytes))
    except FolderInUseError:
        text = f"audit_dir: another {service} writes its audit log there; give each one a folder of its own"
        raise SettingsError("AUDIT_DIR_IN_USE", text) from None
    except OSError as error:
        text = f"audit_dir: it cannot be used: {error.strerror}; name a folder that can be written, or set audit to off"
        raise SettingsError("AUDIT_DIR_UNUSABLE", text) from None
    log.note("start", {"service": service, "version": version})
    return Auditor(log, mode, required=settings.audit_required)


def _folder(service: str, settings: ServiceSettings) -> Path | None:
    """Folder of a service's log: in `audit_dir`, else in the one that says who may call it; None without either."""
    access = settings.access_dir
    if settings.audit_dir is not None:
        return settings.audit_dir / service
    return access / "audit" / service if access is not None else None
