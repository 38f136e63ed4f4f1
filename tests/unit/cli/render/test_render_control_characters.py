# SPDX-License-Identifier: Apache-2.0
"""Whatever a server or a file names, no character that controls a terminal reaches it, by any renderer.

Names, labels, messages and texts are other people's: an escape sequence in one could rewrite what was printed before,
set the clipboard, or hide a part of a line (ANSI, OSC 8 and 52, C1, overrides of the direction of writing).
"""

import importlib
import inspect
import json
import pkgutil
import random
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import finetree_cli.render
import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_cli.output import Output, plain
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

HOSTILE = "a\x1b]8;;http://x\x07b\x1b[2J\x9b1Ac\u202ed\u2066e\u200ef\u2028g\x00h\ri\x08j\x7fk\x85l\x1b]52;c;eA==\x07"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
TRIES = 4
DEPTH = 6


def filled(kind: type[Message], chance: random.Random, depth: int = DEPTH) -> Any:
    """A message with hostile text in every string, and something in every other field that chance picks."""
    message = kind()
    chosen = {one.name: chance.choice(one.fields).name for one in kind.DESCRIPTOR.oneofs}
    for field in kind.DESCRIPTOR.fields:
        one = field.containing_oneof
        if one is not None and chosen[one.name] != field.name:
            continue
        if field.message_type is not None and (depth == 0 or field.message_type.full_name == "google.protobuf.Any"):
            continue
        _fill(message, field, chance, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        if entry["value"].message_type is None and entry["key"].type == FieldDescriptor.TYPE_STRING:
            getattr(message, field.name)[HOSTILE] = _value(entry["value"], chance)
        return
    if field.message_type is not None:
        kind = _class_of(message, field)
        if field.is_repeated:
            # Two, since numbers in other fields are 1 and may be places in this list.
            getattr(message, field.name).extend(filled(kind, chance, depth - 1) for _ in range(2 if depth > 4 else 1))
        else:
            getattr(message, field.name).CopyFrom(filled(kind, chance, depth - 1))
        return
    value = _value(field, chance)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _class_of(message: Any, field: FieldDescriptor) -> type[Message]:
    value = getattr(message, field.name)
    return _added(value) if field.is_repeated else type(value)


def _added(values: Any) -> type[Message]:
    made = values.add()
    del values[-1]
    return type(made)


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.enum_type is not None:
        return chance.choice([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_STRING:
        return HOSTILE
    if field.type == FieldDescriptor.TYPE_BYTES:
        return HOSTILE.encode()
    return field.type == FieldDescriptor.TYPE_BOOL or 1


def renderers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of the renderers that is given an Output and messages."""
    for found in pkgutil.walk_packages(finetree_cli.render.__path__, "finetree_cli.render."):
        module = importlib.import_module(found.name)
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == found.name and not name.startswith("_"):
                try:
                    hints = typing.get_type_hints(function)
                except NameError:  # a type that is imported for the checker alone, and no message
                    continue
                if hints.pop("return", None) in (None, type(None)) and hints.get("out") is Output and _can(hints):
                    yield f"{found.name.removeprefix('finetree_cli.render.')}.{name}", function


def _message_of(hint: Any) -> type[Message] | None:
    for kind in (hint, *typing.get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, Message):
            return kind
    return None


def _can(hints: dict[str, Any]) -> bool:
    others = [hint for name, hint in hints.items() if name != "out"]
    given = [_message_of(hint) for hint in others]
    simple = (Path, click.Command, str)
    makeable = [kind or hint in simple or typing.get_origin(hint) for kind, hint in zip(given, others, strict=True)]
    return any(given) and all(makeable)


def argument(hint: Any, chance: random.Random, names: Sequence[str]) -> Any:
    """Something hostile of an argument's type; a text that chooses between pages is one of `names`."""
    kind = _message_of(hint)
    origin = typing.get_origin(hint)
    if origin is not None and "Mapping" in str(origin):
        return {}
    if kind is not None:
        made = filled(kind, chance)
        return made if origin is None else [made, filled(kind, chance)]
    if hint is Path:
        return Path(f"folder/{HOSTILE}".replace("\x00", ""))
    if hint is click.Command:
        return click.Command("command")
    return chance.choice(names)


RENDERERS = dict(renderers())


@pytest.mark.parametrize("name", RENDERERS)
def test_no_renderer_prints_a_control_character(name, capsys):
    function = RENDERERS[name]
    hints = {key: hint for key, hint in typing.get_type_hints(function).items() if key not in ("return", "out")}
    pages = sorted(getattr(inspect.getmodule(function), "PAGES", [HOSTILE]))
    printed = ""
    for seed in range(TRIES):
        chance = random.Random(f"{name}/{seed}")
        # What chance made may be no sound message; what was printed till then counts.
        with suppress(KeyError, IndexError, ValueError, StopIteration, AttributeError, ZeroDivisionError):
            function(Output(), **{key: argument(hint, chance, pages) for key, hint in hints.items()})
        read = capsys.readouterr()
        printed += read.out + read.err
    assert printed, "nothing was printed in any try: the test shows nothing"
    assert CONTROLS.findall(printed) == []


def test_there_are_many_renderers():
    assert len(RENDERERS) > 30


@pytest.mark.parametrize("form", ["document", "line", "message"])
def test_json_keeps_a_text_and_writes_its_control_characters_as_numbers(form, capsys):
    job = job_pb2.Job(display_name=HOSTILE + "é 中 👩\u200d💻")
    given = {"document": {"display_name": job.display_name}, "line": {"display_name": job.display_name}, "message": job}
    getattr(Output(json=True), form)(given[form])
    printed = capsys.readouterr().out
    assert CONTROLS.findall(printed) == []
    assert json.loads(printed)["display_name"] == job.display_name
    assert "é 中 👩\u200d💻" in printed


@pytest.mark.parametrize("way", ["text", "say", "paragraph", "heading", "bullet"])
def test_no_way_of_printing_lets_one_through(way, capsys):
    getattr(Output(), way)(HOSTILE)
    read = capsys.readouterr()
    assert CONTROLS.findall(read.out + read.err) == []
    assert "\N{REPLACEMENT CHARACTER}" in plain(HOSTILE)
