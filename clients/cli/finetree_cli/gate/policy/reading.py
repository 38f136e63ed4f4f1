# SPDX-License-Identifier: Apache-2.0
"""Read sections of a policy file strictly: known keys, each once, with the position of every value."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from finetree_cli.errors import FileProblem, Position
from finetree_cli.jobfile.yaml_reader import MAX_PROBLEMS
from finetree_cli.jobfile.yaml_scalars import found

LONGEST = 1024
"""Longest text of a value."""


@dataclass(slots=True)
class SectionReader:
    """Reads nodes of a YAML tree and collects positions and problems."""

    file: str
    positions: dict[str, Position] = field(default_factory=dict)
    """Position of each value's key by its path ("limits[0].max")."""
    problems: list[FileProblem] = field(default_factory=list)

    def position(self, node: Node) -> Position:
        """Return the position at which a node begins."""
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def report(self, node: Node, path: str, message: str) -> None:
        """Add a problem, up to `MAX_PROBLEMS`."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(FileProblem(self.position(node), path, message))

    def keys(
        self,
        node: Node,
        path: str,
        *,
        known: Sequence[str] | None,
        required: Sequence[str] = (),
        of_policy: Sequence[str] = (),
    ) -> dict[str, Node]:
        """Return the values of a mapping by key; unknown, repeated, empty and missing keys are reported.

        With `known` None every key is known. Keys in `of_policy` are reported with their place, a named policy.
        """
        if not isinstance(node, MappingNode):
            self.report(node, path, f"expected settings (key: value), got {found(node)}")
            return {}
        values: dict[str, Node] = {}
        for key, value in node.value:
            name = str(key.value)
            at = join(path, name)
            if name in of_policy:
                self.report(key, at, "is a setting of each policy here; move it below policies.NAME")
            elif known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]}?" if near else f"the settings here are {', '.join(known)}"
                self.report(key, at, f"unknown setting; {hint}")
            elif name in values:
                self.report(key, at, f"is given twice, first in line {self.positions[at].line}; keep one of them")
            elif isinstance(value, ScalarNode) and value.tag == "tag:yaml.org,2002:null":
                self.report(key, at, "has no value; give one, or remove the line")
            else:
                self.positions[at] = self.position(key)
                values[name] = value
        for name in required:
            if name not in values:
                self.report(node, join(path, name), "is missing")
        return values

    def items(self, node: Node, path: str) -> list[tuple[Node, str]]:
        """Return the elements of a list with their paths."""
        if not isinstance(node, SequenceNode):
            self.report(node, path, f"expected a list, got {found(node)}; write [a, b]")
            return []
        found_items = [(item, f"{path}[{number}]") for number, item in enumerate(node.value)]
        self.positions.update((at, self.position(item)) for item, at in found_items)
        return found_items

    def text(self, node: Node, path: str) -> str | None:
        """Return a scalar as it is written; None after a problem."""
        if not isinstance(node, ScalarNode) or not str(node.value).strip():
            self.report(node, path, f"expected text, got {found(node)}")
            return None
        if len(node.value) > LONGEST:
            self.report(node, path, f"is longer than {LONGEST} characters")
            return None
        return str(node.value)

    def texts(self, node: Node, path: str) -> tuple[str, ...]:
        """Return a list of scalars as they are written."""
        listed = [self.text(item, at) for item, at in self.items(node, path)]
        return tuple(text for text in listed if text is not None)

    def word(self, node: Node, path: str, words: Sequence[str]) -> str | None:
        """Return one of some words in small letters; None after a problem."""
        text = self.text(node, path)
        if text is None or text.lower() in words:
            return text.lower() if text is not None else None
        near = difflib.get_close_matches(text.lower(), words, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(words)}"
        self.report(node, path, f"unknown value {text!r}; {hint}")
        return None


def join(path: str, name: str) -> str:
    """Append a key to a path."""
    return f"{path}.{name}" if path else name
