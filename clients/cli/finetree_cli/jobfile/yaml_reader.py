# SPDX-License-Identifier: Apache-2.0
"""Strict proto JSON, written as YAML: every value keeps its line, and every mistake is told with it.

A YAML tree is walked beside a message's descriptor; `job_scalars` reads its leaves.
"""

import difflib
import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from finetree_cli.jobfile.yaml_scalars import convert, wanted, what

MAX_PROBLEMS = 32
"""Problems kept of one file: enough to mend it, few enough to read."""

_WRITTEN_AS_TEXT = {
    "google.protobuf.Timestamp": "a time such as 2026-07-01T12:00:00Z",
    "google.protobuf.Duration": "a duration such as 3600s",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Something wrong at a place of a file."""

    place: Place
    field_path: str
    """Proto path of the value, empty for the file itself."""
    message: str

    def __str__(self) -> str:
        subject = f"{self.field_path}: " if self.field_path else ""
        return f"{self.place}: {subject}{self.message}"


@dataclass(slots=True)
class JobReader:
    """Reads a YAML tree into messages, gathering places and problems as it goes."""

    file: str
    places: dict[str, Place] = field(default_factory=dict)
    """Proto path of each value that was given, and where its key stands."""
    problems: list[FileProblem] = field(default_factory=list)

    def read(self, node: Node, message: Message, path: str = "") -> None:
        """Fill `message` from a mapping; `path` is the proto path that it has in the file."""
        if not isinstance(node, MappingNode):
            self.report(node, path, f"expected settings (key: value), got {what(node)}")
            return
        descriptor: Any = message.DESCRIPTOR  # protobuf has two classes of descriptors, alike in all but their types
        fields: dict[str, Any] = {name: item for item in descriptor.fields for name in (item.name, item.json_name)}
        seen: dict[str, Place] = {}
        for key, value in node.value:
            known = fields.get(str(key.value)) if isinstance(key, ScalarNode) else None
            if known is None:
                name = str(key.value)
                self.report(key, _join(path, name), _unknown_key(name, descriptor))
                continue
            place = self.place(key)
            if not self._is_repeat(known, key, path, seen):
                self.places[_join(path, known.name)] = place
                self._set(message, known, value, _join(path, known.name))
            _remember(seen, known, place)

    def place(self, node: Node) -> Place:
        """Where a node begins."""
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def report(self, node: Node, path: str, message: str) -> None:
        """Note a problem, up to `MAX_PROBLEMS`."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(FileProblem(self.place(node), path, message))

    def _is_repeat(self, known: FieldDescriptor, key: Node, path: str, seen: dict[str, Place]) -> bool:
        """Report a key that is there twice, and a second choice where only one may be made."""
        if known.name in seen:
            first = seen[known.name]
            self.report(key, _join(path, known.name), f"is given twice, first in line {first.line}; keep one of them")
            return True
        choice = _choice(known)
        if choice in seen:
            names = ", ".join(item.name for item in known.containing_oneof.fields) if known.containing_oneof else ""
            text = f"line {seen[choice].line} has made this choice already; keep one of {names}"
            self.report(key, _join(path, known.name), text)
            return True
        return False

    def _set(self, message: Message, known: FieldDescriptor, node: Node, path: str) -> None:
        if isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            hint = "write {} to take the defaults" if _is_message(known) else "give one, or remove the line"
            self.report(node, path, f"has no value; {hint}")
        elif _is_map(known):
            self._set_map(message, known, node, path)
        elif known.is_repeated:
            self._set_list(message, known, node, path)
        elif known.message_type is not None:
            target = getattr(message, known.name)
            target.SetInParent()
            self._set_message(target, node, path)
        else:
            value = self._scalar(known, node, path)
            if value is not None:
                self._assign(node, path, lambda: setattr(message, known.name, value))

    def _set_message(self, target: Message, node: Node, path: str) -> None:
        form = _WRITTEN_AS_TEXT.get(target.DESCRIPTOR.full_name)
        if form is None:
            self.read(node, target, path)
            return
        try:
            json_format.Parse(json.dumps(node.value if isinstance(node, ScalarNode) else None), target)
        except json_format.ParseError:
            self.report(node, path, f"expected {form}, got {what(node)}")

    def _set_list(self, message: Message, known: FieldDescriptor, node: Node, path: str) -> None:
        if not isinstance(node, SequenceNode):
            self.report(node, path, f"expected a list, got {what(node)}; write [a, b]")
            return
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            self.places[at] = self.place(item)
            if known.message_type is not None:
                self._set_message(getattr(message, known.name).add(), item, at)
                continue
            value = self._scalar(known, item, at)
            if value is not None:
                self._assign(item, at, lambda value=value: getattr(message, known.name).append(value))

    def _set_map(self, message: Message, known: FieldDescriptor, node: Node, path: str) -> None:
        if not isinstance(node, MappingNode):
            self.report(node, path, f"expected key: value lines, got {what(node)}")
            return
        entry: Any = known.message_type
        inner = entry.fields_by_name["value"]
        for key, item in node.value:
            at = _join(path, str(key.value))
            if at in self.places:
                self.report(key, at, f"is given twice, first in line {self.places[at].line}; keep one of them")
                continue
            self.places[at] = self.place(key)
            value = self._scalar(inner, item, at)
            if value is not None:
                getattr(message, known.name)[str(key.value)] = value

    def _assign(self, node: Node, path: str, assignment: Any) -> None:
        try:
            assignment()
        except (ValueError, TypeError):
            self.report(node, path, f"{what(node)} is out of range for this setting")

    def _scalar(self, known: FieldDescriptor, node: Node, path: str) -> Any:
        """The value of a scalar by its field's type; None after a problem."""
        if not isinstance(node, ScalarNode):
            self.report(node, path, f"expected {wanted(known)}, got {what(node)}")
            return None
        value, problem = convert(known, node)
        if problem:
            self.report(node, path, problem)
        return value


def _unknown_key(key: str, descriptor: Descriptor) -> str:
    names = [item.name for item in descriptor.fields]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if close:
        return f"there is no such setting; did you mean {close[0]}?"
    elsewhere = _find(key)
    if elsewhere:
        return f"there is no such setting here; it belongs at {elsewhere}"
    return f"there is no such setting; known here are {', '.join(names)}"


def _find(key: str) -> str:
    """Path of the first setting of a RunSpec with this name, searched breadth first; empty when there is none."""
    from finetree_api.types.v1 import run_spec_pb2

    queue: list[tuple[str, Descriptor]] = [("", run_spec_pb2.RunSpec.DESCRIPTOR)]
    for path, descriptor in queue:
        for item in descriptor.fields:
            if key in (item.name, item.json_name):
                return _join(path, item.name)
            if item.message_type is not None:
                queue.append((_join(path, item.name), item.message_type))
    return ""


def _is_message(known: FieldDescriptor) -> bool:
    return known.message_type is not None


def _is_map(known: FieldDescriptor) -> bool:
    return known.message_type is not None and bool(known.message_type.GetOptions().map_entry)


def _choice(known: FieldDescriptor) -> str:
    """Key under which a made choice is remembered; "" for a field that is no choice (optional fields are none)."""
    group = known.containing_oneof
    return f"oneof {group.name}" if group is not None and len(group.fields) > 1 else ""


def _remember(seen: dict[str, Place], known: FieldDescriptor, place: Place) -> None:
    seen.setdefault(known.name, place)
    if _choice(known):
        seen.setdefault(_choice(known), place)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
