# SPDX-License-Identifier: Apache-2.0
"""Read YAML into protobuf messages, strictly, and keep the position of every value.

The rules are those of proto JSON, with enum names in short form as well. A YAML tree is walked beside the message's
descriptor; `yaml_scalars` converts its leaves.
"""

import difflib
import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from finetree_cli.errors import FileProblem, Position
from finetree_cli.jobfile.yaml_scalars import convert, expected, found

MAX_PROBLEMS = 32
"""Largest number of problems reported for one file."""

_WRITTEN_AS_TEXT = {
    "google.protobuf.Timestamp": "a time such as 2026-07-01T12:00:00Z",
}
_MONEY = "google.type.Money"
_DURATION = "google.protobuf.Duration"


@dataclass(slots=True)
class YamlReader:
    """Reads a YAML tree into messages and collects positions and problems."""

    file: str
    positions: dict[str, Position] = field(default_factory=dict)
    """Position of each value's key, by the value's proto path."""
    problems: list[FileProblem] = field(default_factory=list)
    _root: Any = None
    """Descriptor of the file's top message, in which a misplaced key is looked up."""

    def read(self, node: Node, message: Message, path: str = "") -> None:
        """Fill `message` from a mapping; `path` is the message's proto path in the file."""
        if not isinstance(node, MappingNode):
            text = f"expected settings (key: value), got {found(node)}"
            # The short form of other tools' files.
            named = path == "model" and isinstance(node, ScalarNode) and len(node.value) <= 80
            self.report(node, path, f"{text}; `model: {{name: {node.value}}}` names a base model" if named else text)
            return
        descriptor: Any = message.DESCRIPTOR  # protobuf has two classes of descriptors, alike in all but their types
        self._root = self._root or descriptor
        fields: dict[str, Any] = {name: item for item in descriptor.fields for name in (item.name, item.json_name)}
        seen: dict[str, Position] = {}
        for key, value in node.value:
            known = fields.get(str(key.value)) if isinstance(key, ScalarNode) else None
            if known is None:
                name = str(key.value)
                self.report(key, _join(path, name), self._unknown_key(name, descriptor, path))
                continue
            position = self.position(key)
            if not self._is_repeat(known, key, path, seen):
                self.positions[_join(path, known.name)] = position
                self._set(message, known, value, _join(path, known.name))
            _remember(seen, known, position)

    def position(self, node: Node) -> Position:
        """Return the position at which a node begins."""
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def report(self, node: Node, path: str, message: str) -> None:
        """Add a problem, up to `MAX_PROBLEMS`."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(FileProblem(self.position(node), path, message))

    def _unknown_key(self, key: str, descriptor: Any, path: str) -> str:
        """Explain an unknown key: a similar name, its place further in or elsewhere in the file, or the names here."""
        names = [item.name for item in descriptor.fields]
        close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        if close:
            return f"unknown setting; did you mean {close[0]}?"
        inside = _find(key, descriptor)
        elsewhere = _join(path, inside) if inside else _find(key, self._root)
        if elsewhere:
            return f"unknown setting here; it belongs at {elsewhere}"
        return f"unknown setting; the settings here are {', '.join(names)}"

    def _is_repeat(self, known: FieldDescriptor, key: Node, path: str, seen: dict[str, Position]) -> bool:
        """Report a key that is given twice, and a second member of a oneof."""
        if known.name in seen:
            first = seen[known.name]
            self.report(key, _join(path, known.name), f"is given twice, first in line {first.line}; keep one of them")
            return True
        choice = _choice(known)
        if choice in seen:
            names = ", ".join(item.name for item in known.containing_oneof.fields) if known.containing_oneof else ""
            text = f"excludes the choice in line {seen[choice].line}; keep one of {names}"
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
        if target.DESCRIPTOR.full_name == _MONEY and isinstance(node, ScalarNode):
            self._set_money(target, node, path)
            return
        if target.DESCRIPTOR.full_name == _DURATION:
            self._set_duration(target, node, path)
            return
        if form is None:
            self.read(node, target, path)
            return
        from google.protobuf import json_format

        try:
            json_format.Parse(json.dumps(node.value if isinstance(node, ScalarNode) else None), target)
        except json_format.ParseError:
            self.report(node, path, f"expected {form}, got {found(node)}")

    def _set_money(self, target: Any, node: ScalarNode, path: str) -> None:
        from finetree.money import parse_money

        try:
            target.CopyFrom(parse_money(str(node.value)))
        except ValueError:
            self.report(node, path, f"expected an amount such as 50 USD or 0.30 EUR, got {found(node)}")

    def _set_duration(self, target: Any, node: Node, path: str) -> None:
        from finetree.durations import parse_duration

        try:
            target.CopyFrom(parse_duration(str(node.value) if isinstance(node, ScalarNode) else ""))
        except ValueError as error:
            text = str(error) if isinstance(node, ScalarNode) else f"expected a duration such as 8h, got {found(node)}"
            self.report(node, path, text)

    def _set_list(self, message: Message, known: FieldDescriptor, node: Node, path: str) -> None:
        if not isinstance(node, SequenceNode):
            self.report(node, path, f"expected a list, got {found(node)}; write [a, b]")
            return
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            self.positions[at] = self.position(item)
            if known.message_type is not None:
                self._set_message(getattr(message, known.name).add(), item, at)
                continue
            value = self._scalar(known, item, at)
            if value is not None:
                self._assign(item, at, lambda value=value: getattr(message, known.name).append(value))

    def _set_map(self, message: Message, known: FieldDescriptor, node: Node, path: str) -> None:
        if not isinstance(node, MappingNode):
            self.report(node, path, f"expected key: value lines, got {found(node)}")
            return
        entry: Any = known.message_type
        inner = entry.fields_by_name["value"]
        for key, item in node.value:
            at = _join(path, str(key.value))
            if at in self.positions:
                self.report(key, at, f"is given twice, first in line {self.positions[at].line}; keep one of them")
                continue
            self.positions[at] = self.position(key)
            value = self._scalar(inner, item, at)
            if value is not None:
                getattr(message, known.name)[str(key.value)] = value

    def _assign(self, node: Node, path: str, assignment: Any) -> None:
        try:
            assignment()
        except (ValueError, TypeError):
            self.report(node, path, f"{found(node)} is out of range for this setting")

    def _scalar(self, known: FieldDescriptor, node: Node, path: str) -> Any:
        """Convert a scalar by its field's type; None after a problem."""
        if not isinstance(node, ScalarNode):
            self.report(node, path, f"expected {expected(known)}, got {found(node)}")
            return None
        value, problem = convert(known, node)
        if problem:
            self.report(node, path, problem)
        return value


def _find(key: str, descriptor: Any) -> str:
    """Find the path of a setting by its name, breadth first; "" without one."""
    queue: list[tuple[str, Any]] = [("", descriptor)]
    seen = {descriptor.full_name}
    for path, kind in queue:
        for item in kind.fields:
            if key in (item.name, item.json_name):
                return _join(path, item.name)
            if item.message_type is not None and item.message_type.full_name not in seen:
                seen.add(item.message_type.full_name)
                queue.append((_join(path, item.name), item.message_type))
    return ""


def _is_message(known: FieldDescriptor) -> bool:
    return known.message_type is not None


def _is_map(known: FieldDescriptor) -> bool:
    return known.message_type is not None and bool(known.message_type.GetOptions().map_entry)


def _choice(known: FieldDescriptor) -> str:
    """Return the key that marks a field's oneof as chosen; "" for a field outside of a oneof (or an optional one)."""
    group = known.containing_oneof
    return f"oneof {group.name}" if group is not None and len(group.fields) > 1 else ""


def _remember(seen: dict[str, Position], known: FieldDescriptor, position: Position) -> None:
    seen.setdefault(known.name, position)
    if _choice(known):
        seen.setdefault(_choice(known), position)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
