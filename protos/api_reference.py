# SPDX-License-Identifier: Apache-2.0
"""Pages that say what the contract says: one for each package, from the descriptors' comments and validation rules.

`pages` takes a FileDescriptorSet with its comments as JSON, as buf writes it, and returns Markdown by file name.
generate.py calls it, so that `make generate` writes the pages and `make check` fails where they differ.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from field_rules import field_rules, message_rules, oneof_rules

PACKAGES = {
    "recommender": "Which method to use, and why",
    "estimator": "What a run will take: memory, time and cost",
    "trainer": "Datasets, jobs, events and artifacts",
    "types": "Messages that the services share, and the reasons of errors",
}
"""Pages and their subjects. The worker's package is left out: no client speaks it."""
GENERATED = "<!-- Written by `make generate` from the comments in protos/finetree_api; edit those. -->"
CODES = (
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
)
CODE = re.compile(rf"\b({'|'.join(CODES)})(?= \()")
IDEMPOTENCY = {"NO_SIDE_EFFECTS": "no side effects", "IDEMPOTENT": "idempotent"}
SCALARS = re.compile(r"TYPE_(DOUBLE|FLOAT|U?INT(?:32|64)|S?FIXED(?:32|64)|SINT(?:32|64)|BOOL|STRING|BYTES)")


@dataclass(frozen=True)
class File:
    """A .proto file: its descriptor, and the comments and lines of what it declares, by descriptor path."""

    descriptor: dict[str, Any]
    comments: dict[tuple[int, ...], str]
    lines: dict[tuple[int, ...], int]

    @property
    def page(self) -> str:
        """Name of the page that it belongs on: "finetree_api.trainer.v1" is on "trainer"."""
        return str(self.descriptor["package"]).split(".")[1]

    @property
    def name(self) -> str:
        """File name without its folder."""
        return str(self.descriptor["name"]).rpartition("/")[2]

    def declarations(self) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
        """Services, messages and enums as (kind, path, descriptor), in the order of the file."""
        found = [
            (kind, (number, index), declared)
            # descriptor.proto: fields of FileDescriptorProto.
            for kind, number in (("service", 6), ("messageType", 4), ("enumType", 5))
            for index, declared in enumerate(self.descriptor.get(kind, []))
        ]
        return sorted(found, key=lambda each: self.lines[each[1]])


def pages(descriptors: dict[str, Any]) -> dict[str, str]:
    """Return the pages by file name, README.md among them."""
    files = [read(file) for file in descriptors["file"] if file["name"].startswith("finetree_api/")]
    wanted = [file for file in files if file.page in PACKAGES]
    links = {
        f".{file.descriptor['package']}.{declared['name']}": (file.page, declared["name"])
        for file in wanted
        for _, _, declared in file.declarations()
    }
    written = {f"{name}.md": page(name, [file for file in wanted if file.page == name], links) for name in PACKAGES}
    return written | {"README.md": index(wanted)}


def read(file: dict[str, Any]) -> File:
    """Return a file with its comments; a location without one is left out."""
    comments: dict[tuple[int, ...], str] = {}
    lines: dict[tuple[int, ...], int] = {}
    for location in file["sourceCodeInfo"]["location"]:
        path = tuple(location.get("path", []))
        lines.setdefault(path, location["span"][0])
        if "leadingComments" in location:
            comments[path] = location["leadingComments"]
    return File(file, comments, lines)


def index(files: list[File]) -> str:
    """Return the page that leads to the others, with every rpc."""
    parts = ["# API reference", GENERATED, INTRODUCTION]
    for name, subject in PACKAGES.items():
        parts.append(f"## [finetree_api.{name}.v1]({name}.md)\n\n{subject}.")
        services = [declared for file in files if file.page == name for declared in file.descriptor.get("service", [])]
        for service in services:
            rpcs = [f"[{rpc['name']}]({name}.md#{rpc['name'].lower()})" for rpc in service["method"]]
            parts.append(f"{service['name']}: {' · '.join(rpcs)}")
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
What the services answer to, from the comments of the contract in [`protos/finetree_api`](../../protos/finetree_api).
[protos/README.md](../../protos/README.md) says how to make stubs of it; the pages on
[TypeScript](../clients/typescript.md), [Go](../clients/go.md) and [buf curl](../clients/buf-curl.md) show it in use.

* **Units** stand in a field's name or comment: memory in bytes, time as a `google.protobuf.Duration` or, inside of
  intervals, in seconds, rates per second, losses in nats, money as `google.type.Money` with its currency.
* **64-bit integers** stay below 2^53, so that JSON and JavaScript hold them exactly.
* **Rules** are checked by the server (protovalidate) before a request is read; a request that breaks some is refused
  with INVALID_ARGUMENT, reason INVALID_REQUEST, and a violation for each field.
* **Unset** and zero differ where a field is `optional` or a message; elsewhere a comment says what zero means.
* **Enums** may get new values and events new payloads: keep what you don't know, and go on."""


def page(name: str, files: list[File], links: dict[str, tuple[str, str]]) -> str:
    """Return the page of a package: the service's file first, then the others by name."""
    ordered = sorted(files, key=lambda file: ("service" not in file.descriptor, file.name))
    parts = [f"# finetree_api.{name}.v1", GENERATED, f"{PACKAGES[name]}. [All packages](README.md)", contents(ordered)]
    for file in ordered:
        parts.append(f"## {file.name}")
        parts.extend(prose(file.comments.get((2,), "")))  # the comment above `package`
        for kind, path, declared in file.declarations():
            render = {"service": service, "messageType": message, "enumType": enum}[kind]
            parts.extend(render(file, path, declared, links))
    return "\n\n".join(parts) + "\n"


def contents(files: list[File]) -> str:
    """Return a table of what each file declares."""
    rows = ["| file | |", "| --- | --- |"]
    for file in files:
        names = [f"[{declared['name']}](#{declared['name'].lower()})" for _, _, declared in file.declarations()]
        rows.append(f"| {file.name} | {' · '.join(names)} |")
    return "\n".join(rows)


def service(
    file: File, path: tuple[int, ...], declared: dict[str, Any], links: dict[str, tuple[str, str]]
) -> Iterator[str]:
    """Yield the chapter of a service: what holds for all its rpcs, then each of them."""
    yield f"### {declared['name']}"
    yield from prose(file.comments.get(path, ""))
    for number, rpc in enumerate(declared["method"]):
        yield f"#### {rpc['name']}"
        takes = stream(rpc, "clientStreaming") + type_link(rpc["inputType"], file.page, links)
        gives = stream(rpc, "serverStreaming") + type_link(rpc["outputType"], file.page, links)
        repeatable = IDEMPOTENCY.get(rpc.get("options", {}).get("idempotencyLevel", ""), "")
        yield f"`rpc` {rpc['name']} ({takes}) → {gives}{f' · {repeatable}' if repeatable else ''}"
        before, _, errors = file.comments.get((*path, 2, number), "").partition("Errors:")
        yield from prose(before)
        yield error_list(errors)


def stream(rpc: dict[str, Any], key: str) -> str:
    """Return "stream " where one side of an rpc is a stream."""
    return "stream " if rpc.get(key) else ""


def error_list(text: str) -> str:
    """Return an rpc's errors, one line for each status code; nothing of the comment's words is lost."""
    words = " ".join(text.split())
    starts = [found.start() for found in CODE.finditer(words)]
    ends = [*starts, len(words)]
    before = words[: ends[0]].strip(" ,")
    lines = [f"Errors: {escape(before)}".rstrip()]
    if starts and not before:
        lines = ["Errors:"]
    for start, end in zip(starts, ends[1:], strict=True):
        code, _, rest = words[start:end].strip(" ,").partition(" ")
        lines.append(f"* **{code}** {escape(rest.removesuffix('.'))}")
    return "\n".join(lines[:1]) + ("\n\n" + "\n".join(lines[1:]) if len(lines) > 1 else "")


def message(
    file: File, path: tuple[int, ...], declared: dict[str, Any], links: dict[str, tuple[str, str]]
) -> Iterator[str]:
    """Yield the chapter of a message: its comment, its rules, its choices and its fields."""
    yield f"### {declared['name']}"
    yield from prose(file.comments.get(path, ""))
    if rules := message_rules(declared.get("options", {})):
        yield f"Rules: {escape(rules)}."
    fields = declared.get("field", [])
    for number, choice in enumerate(declared.get("oneofDecl", [])):
        members = [field["name"] for field in fields if field.get("oneofIndex") == number and not is_optional(field)]
        if members:
            said = " ".join(file.comments.get((*path, 8, number), "").split())
            needed = ", required" if oneof_rules(choice.get("options", {})) else ""
            names = ", ".join(f"`{name}`" for name in members)
            yield f"**{choice['name']}**, one of {names}{needed}: {escape(said)}"
    if fields:
        entries = {f".{file.descriptor['package']}.{declared['name']}.{n['name']}": n for n in nested_maps(declared)}
        rows = ["| field | type | |", "| --- | --- | --- |"]
        for number, field in enumerate(fields):
            kind = field_type(field, file.page, entries, links)
            said = " ".join(file.comments.get((*path, 2, number), "").split())
            rules = field_rules(field.get("options", {}))
            about = escape(said) + (f"<br>Rules: {escape(rules)}." if rules else "")
            rows.append(f"| `{field['name']}` {field['number']} | {kind} | {about} |")
        yield "\n".join(rows)


def nested_maps(declared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entry messages of a message's maps; the contract nests nothing else."""
    nested: list[dict[str, Any]] = declared.get("nestedType", [])
    others = [entry["name"] for entry in nested if not entry.get("options", {}).get("mapEntry")]
    if others or declared.get("enumType"):
        raise NotImplementedError(f"{declared['name']} nests {others or 'an enum'}: no chapter is written for it")
    return nested


def is_optional(field: dict[str, Any]) -> bool:
    """Whether a field is `optional`; its oneof is the compiler's own."""
    return bool(field.get("proto3Optional"))


def field_type(
    field: dict[str, Any], here: str, entries: dict[str, dict[str, Any]], links: dict[str, tuple[str, str]]
) -> str:
    """Return a field's type as the .proto has it, messages and enums as links."""
    entry = entries.get(field.get("typeName", ""))
    if entry:
        key, value = (field_type(part, here, {}, links) for part in entry["field"])
        return f"map<{key}, {value}>".replace("<", "&lt;")
    scalar = SCALARS.fullmatch(field["type"])
    name = scalar[1].lower() if scalar else type_link(field["typeName"], here, links)
    if field.get("label") == "LABEL_REPEATED":
        return f"repeated {name}"
    return f"optional {name}" if is_optional(field) else name


def type_link(full_name: str, here: str, links: dict[str, tuple[str, str]]) -> str:
    """Return a link to a type's chapter; types of others by their full name."""
    if full_name not in links:
        return f"`{full_name.removeprefix('.')}`"
    there, name = links[full_name]
    return f"[{name}]({'' if there == here else f'{there}.md'}#{name.lower()})"


def enum(
    file: File,
    path: tuple[int, ...],
    declared: dict[str, Any],
    links: dict[str, tuple[str, str]],  # noqa: ARG001 - as its sisters
) -> Iterator[str]:
    """Yield the chapter of an enum: its comment and its values."""
    yield f"### {declared['name']}"
    yield from prose(file.comments.get(path, ""))
    rows = ["| value | |", "| --- | --- |"]
    for number, value in enumerate(declared["value"]):
        said = " ".join(file.comments.get((*path, 2, number), "").split())
        rows.append(f"| `{value['name']}` {value.get('number', 0)} | {escape(said)} |")
    yield "\n".join(rows)


def prose(comment: str) -> Iterator[str]:
    """Yield the paragraphs of a comment, each on one line."""
    for paragraph in re.split(r"\n\s*\n", comment.strip()):
        if paragraph.strip():
            yield escape(" ".join(paragraph.split()))


def escape(text: str) -> str:
    """Return text in which Markdown and tables find nothing to interpret; what stands in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    for place, part in enumerate(parts):
        shown = part if part.startswith("`") else re.sub(r"([*<\[\]~\\])", r"\\\1", part)
        parts[place] = shown.replace("|", "\\|")
    return "".join(parts)
