# SPDX-License-Identifier: Apache-2.0
"""The file that names the sinks, read strictly: known keys, each once, and secrets by the name of a variable."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetree_cli.backends.forge.http import LOOPBACK
from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.reading import SectionReader, join
from finetree_cli.jobfile.job import MAX_FILE_BYTES, compose
from finetree_cli.sinks.delivery import Sink
from finetree_cli.sinks.mlflow import EXPERIMENT, Mlflow
from finetree_cli.sinks.tensorboard_files import TensorboardFiles
from finetree_cli.sinks.wandb_folder import WandbFolder
from finetree_cli.sinks.webhook import Webhook, secret_of

if TYPE_CHECKING:
    from yaml.nodes import Node

TARGETS: Mapping[str, Sequence[str]] = {
    "mlflow": ("url", "experiment", "token_env", "username_env", "password_env", "plaintext"),
    "webhook": ("url", "secret_env", "kinds", "plaintext"),
    "tensorboard": ("folder",),
    "wandb": ("folder", "project", "entity", "python"),
}
"""Kinds of target and their settings."""
_COMMON = ("name", "labels", "existing")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """A sink of the file."""

    name: str
    kind: str
    """Key of TARGETS."""
    sink: Sink
    labels: Mapping[str, str] = field(default_factory=dict)
    """Only jobs that were created with all of these labels."""
    existing: bool = True
    """Whether jobs from before the sink's first run are delivered too."""


def read_sinks(name: str) -> list[SinkConfig]:
    """Read a file of sinks.

    Raises:
        BadInput: SINKS_FILE_INVALID with the position of each mistake, a secret's variable that is not set among them;
            SINKS_FILE_UNREADABLE.
    """
    shown, text = name, _text(name)
    reader = SectionReader(shown)
    root = compose(text, shown)
    listed = reader.keys(root, "", known=("sinks",), required=("sinks",)).get("sinks")
    read = _Reader(reader, Path(name).parent if Path(name).is_file() else Path())
    found = [read.sink(node, path) for node, path in reader.items(listed, "sinks")] if listed is not None else []
    names = [sink.name for sink in found if sink is not None]
    for number, sink in enumerate(found):
        if sink is not None and sink.name in names[:number] and listed is not None:
            reader.report(listed.value[number], f"sinks[{number}].name", f"{sink.name} names two sinks")
    if reader.problems:
        count = "1 problem" if len(reader.problems) == 1 else f"{len(reader.problems)} problems"
        raise BadInput(f"{count} in {shown}", reason="SINKS_FILE_INVALID", problems=reader.problems)
    return [sink for sink in found if sink is not None]


def _text(name: str) -> str:
    remedy = "name a file of sinks; docs/sinks.md has one to copy"
    try:
        with Path(name).open("rb") as stream:
            return stream.read(MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: not UTF-8 text", remedy=remedy, reason="SINKS_FILE_UNREADABLE") from error
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}", remedy=remedy, reason="SINKS_FILE_UNREADABLE") from error


@dataclass(slots=True)
class _Reader:
    """Reads sinks from nodes; each method returns None after a problem."""

    reader: SectionReader
    beside: Path
    """Relative folders begin here."""

    def sink(self, node: "Node", path: str) -> SinkConfig | None:
        reader = self.reader
        before = len(reader.problems)
        values = reader.keys(node, path, known=(*_COMMON, *TARGETS), required=("name",))
        kinds = [kind for kind in TARGETS if kind in values]
        if values and len(kinds) != 1:
            reader.report(node, path, f"needs one target: {', '.join(TARGETS)}")
        name = reader.text(values["name"], join(path, "name")) if "name" in values else None
        if name is not None and not _NAME.fullmatch(name):
            reader.report(values["name"], join(path, "name"), "must be small letters, digits and hyphens, 63 at most")
        labels: dict[str, str] = {}
        if "labels" in values:
            at = join(path, "labels")
            for key, value in reader.keys(values["labels"], at, known=None).items():
                labels[key] = reader.text(value, join(at, key)) or ""
        kind = kinds[0] if len(kinds) == 1 else ""
        target = self._target(values[kind], join(path, kind), kind) if kind else None
        existing = self._flag(values, "existing", path, default=kind != "webhook")
        if len(reader.problems) > before or name is None or target is None:
            return None
        return SinkConfig(name, kind, target, labels, existing)

    def _target(self, node: "Node", path: str, kind: str) -> Sink | None:
        required = {"mlflow": ("url",), "webhook": ("url", "secret_env")}.get(kind, ("folder",))
        values = self.reader.keys(node, path, known=TARGETS[kind], required=required)
        if any(name not in values for name in required):
            return None
        texts = {
            key: self.reader.text(value, join(path, key)) or ""
            for key, value in values.items()
            if key not in ("kinds", "plaintext")
        }
        secrets = {key: self._secret(values[key], join(path, key), texts[key]) for key in texts if key.endswith("_env")}
        if "url" in texts:
            self._check_url(values, path, texts["url"])
        match kind:
            case "mlflow":
                login = (secrets.get("username_env", ""), secrets.get("password_env", ""))
                experiment = texts.get("experiment", EXPERIMENT)
                return Mlflow(texts["url"], experiment, token=secrets.get("token_env", ""), login=login)
            case "webhook":
                return self._webhook(values, path, texts["url"], secrets["secret_env"])
            case "tensorboard":
                return TensorboardFiles(self.beside / texts["folder"])
            case _:
                project, entity = texts.get("project", "finetree"), texts.get("entity", "")
                return WandbFolder(self.beside / texts["folder"], project, entity, texts.get("python", ""))

    def _webhook(self, values: Mapping[str, "Node"], path: str, url: str, secret: str) -> Webhook | None:
        from finetree_api.trainer.v1 import event_pb2

        known = [name.removeprefix("EVENT_KIND_").lower() for name in event_pb2.EventKind.keys()[1:]]
        kinds = []
        if "kinds" in values:
            for node, at in self.reader.items(values["kinds"], join(path, "kinds")):
                word = self.reader.word(node, at, known)
                kinds += [word] if word else []
        if not secret:
            return None
        try:
            return Webhook(url, secret_of(secret), tuple(kinds))
        except ValueError as error:
            self.reader.report(values["secret_env"], join(path, "secret_env"), f"the secret {error}")
            return None

    def _secret(self, node: "Node", path: str, variable: str) -> str:
        found = os.environ.get(variable, "")
        if variable and not found:
            self.reader.report(node, path, f"the environment variable {variable} is not set")
        return found

    def _check_url(self, values: Mapping[str, "Node"], path: str, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            text = "must be an address such as https://tracker.example.com, without a user in it"
            self.reader.report(values["url"], join(path, "url"), text)
        elif parts.scheme == "http" and parts.hostname not in LOOPBACK and not self._flag(values, "plaintext", path):
            text = "is not encrypted and leaves this machine; use https, or say plaintext: true"
            self.reader.report(values["url"], join(path, "url"), text)

    def _flag(self, values: Mapping[str, "Node"], key: str, path: str, *, default: bool = False) -> bool:
        if key not in values:
            return default
        return _WORDS.get(self.reader.word(values[key], join(path, key), tuple(_WORDS)) or "", default)
