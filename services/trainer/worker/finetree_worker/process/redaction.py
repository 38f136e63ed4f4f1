# SPDX-License-Identifier: Apache-2.0
"""Removes from a text what its readers must not see: secrets, and where things lie on this machine.

What is known beforehand (the task's token, variables of the environment that are named like secrets, the task's
folders) is removed wherever it stands; the rest by its form.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2

HIDDEN = "[hidden]"
MIN_SECRET_LETTERS = 6
"""Shorter values of variables are no secrets but numbers and switches; removing them would tear texts apart."""
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(?:API|ACCESS|PRIVATE)_?KEY", re.IGNORECASE)
_SECRETS = (
    # Tokens of hubs, clouds and forges: https://huggingface.co/docs/hub/security-tokens,
    # https://docs.github.com/code-security/secret-scanning, https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    (re.compile(r"\b(?:hf_|api_org_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abpr]-)[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\bft_[0-9A-Za-z]{49}\b"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    # JSON Web Tokens (RFC 7519): their header begins with {".
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)(\w*(?:token|secret|passw(?:or)?d|api_?key|access_?key|signature)[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9._~+/=-]{6,}"
        ),
        rf"\1{HIDDEN}",
    ),
    # User and password in a URL (RFC 3986, 3.2.1).
    (re.compile(r"(://)[^\s/@]+@"), rf"\1{HIDDEN}@"),
)
_PACKAGES = re.compile(r"/(?:[^\s:'\"]+/)?((?:site|dist)-packages/|finetree_[a-z]+/)")
_FILE_URL = re.compile(r"\bfile://(?=/)")
# Folders of absolute paths, not of addresses such as https://…: a slash behind a letter, a dot or a slash begins none.
_FOLDERS = re.compile(r"(?<![\w/.])/(?:[^\s/:'\"]+/)+")


class Redaction:
    """Makes texts fit for their readers. `folders` are absolute paths; `secrets` are removed literally."""

    def __init__(self, *, folders: Iterable[str] = (), secrets: Iterable[str] = ()) -> None:
        known = {folder.rstrip("/") for folder in folders if len(folder) > 1}
        self._folders = sorted(known, key=len, reverse=True)
        self._secrets = sorted(
            {secret for secret in secrets if len(secret) >= MIN_SECRET_LETTERS}, key=len, reverse=True
        )

    @classmethod
    def of_process(cls, environment: Mapping[str, str] = os.environ) -> "Redaction":
        """What every task of this process has in common."""
        return cls(folders=_own_folders(), secrets=_named_like_secrets(environment))

    @classmethod
    def of_task(cls, task: worker_pb2.Task, environment: Mapping[str, str] = os.environ) -> "Redaction":
        """What a task adds: its folders, its files, its token and those of the hub."""
        given = task.folders
        files = (task.dataset_file, task.evaluation_file)
        folders = (
            *_own_folders(),
            *(given.work_dir, given.artifact_dir, given.checkpoint_dir, given.token_cache_dir, task.base.model_dir),
            *(str(Path(file).parent) for file in files if file),
            *(weights.folder for weights in task.weights),
        )
        secrets = (task.token, task.hub.token, task.hub.proxy, *_named_like_secrets(environment))
        return cls(folders=folders, secrets=secrets)

    def __call__(self, text: str) -> str:
        """Return the text without secrets and folders; what is not Unicode, such as some file names, is replaced."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
        text = _PACKAGES.sub(r"\1", _FILE_URL.sub("", text))
        for folder in self._folders:
            text = text.replace(f"{folder}/", "")
        return _FOLDERS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def _own_folders() -> Iterable[str]:
    """Folders of this process that paths in its log may begin with."""
    yield from (sys.prefix, tempfile.gettempdir())
    for find in (Path.cwd, Path.home):
        # A folder that is gone, and a user without a home, as in a container, have none.
        with suppress(OSError, RuntimeError):
            yield str(find())


def _named_like_secrets(environment: Mapping[str, str]) -> Iterable[str]:
    return [value for name, value in environment.items() if _SECRET_NAME.search(name)]
