# SPDX-License-Identifier: Apache-2.0
"""Write the SDK's reference (docs/sdk/) from its signatures and docstrings; nothing of it is imported.

python clients/python/reference.py            # write the pages
python clients/python/reference.py --check    # only say which pages are out of date
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "sdk"
TITLES = {
    "client": "The client",
    "jobs": "Jobs, events and pages",
    "values": "Values, texts and messages",
    "errors": "Errors",
    "testing": "Testing",
}
"""Pages with their titles, in the order of the index."""
PAGE_OF_MODULE = {
    "finetree._sync.client": "client",
    "finetree._async.client": "client",
    "finetree.config": "client",
    "finetree.metadata": "client",
    "finetree._sync": "jobs",
    "finetree._async": "jobs",
    "finetree.errors": "errors",
    "finetree._shared.status": "errors",
}
"""Page of what a module defines, by the longest beginning of its name; all else is on `values`."""
TWIN = "Async"
"""Beginning of the names of classes whose methods are those of another class, awaited."""
KEYWORDS = ("finetree.recommend_words.RecommendWords", "finetree._shared.trainer_requests.JobFields")
"""Dictionaries of keyword arguments, shown on the client's page."""
NOTE = "<!-- Written by clients/python/reference.py (`make reference`); edit the docstrings. -->"


def pages() -> dict[str, str]:
    """Make the text of every page by its file name."""
    package = griffe.load("finetree", search_paths=[ROOT / "clients" / "python"], docstring_parser="google")
    names = [name.strip("'\"") for name in map(str, exported(package))]
    places: dict[str, list[tuple[str, Any]]] = {page: [] for page in TITLES}
    for name in sorted(names, key=lambda name: (name.startswith(TWIN), name)):
        found = target(package[name])
        if not found.is_attribute:
            places[page_of(found)].append((name, found))
    testing = package["testing"]
    places["testing"] = [
        (str(name).strip("'\""), target(testing[str(name).strip("'\"")])) for name in exported(testing)
    ]
    written = {f"{page}.md": page_text(page, entries, package) for page, entries in places.items()}
    return {"README.md": index(places, package)} | written


def exported(module: Any) -> list[Any]:
    """Names that a module lists in `__all__`."""
    return list(module.exports or [])


def target(member: Any) -> Any:
    """The object that a name stands for."""
    return member.final_target if member.is_alias else member


def page_of(member: Any) -> str:
    """Page on which an object is described."""
    path = str(member.path)
    fitting = [module for module in PAGE_OF_MODULE if path.startswith(f"{module}.")]
    return PAGE_OF_MODULE[max(fitting, key=len)] if fitting else "values"


def index(places: dict[str, list[tuple[str, Any]]], package: Any) -> str:
    """Write the index: every public name with the first line of its docstring."""
    lines = [NOTE, "# The Python SDK: reference", ""]
    lines += [
        "Written from the docstrings. The [README of the SDK](../../clients/python/README.md) shows how it is used,",
        "the contract in `protos/finetree_api/` describes the messages, and",
        "[operations](../operations.md#settings-of-a-client) the settings. `Async` classes have the methods of their",
        "twins; what talks to a service is awaited.",
    ]
    for page, title in TITLES.items():
        lines += ["", f"## [{title}]({page}.md)", "", "| name | |", "| --- | --- |"]
        for name, member in places[page]:
            lines.append(f"| [`{name}`]({page}.md#{anchor(name)}) | {cell(summary(member))} |")
    version = [name for name in package.members if name == "__version__"]
    lines += ["", *(f"`finetree.{name}` is the version of the distribution." for name in version)]
    return "\n".join(lines) + "\n"


def page_text(page: str, entries: list[tuple[str, Any]], package: Any) -> str:
    """Write a page."""
    prefix = "finetree.testing" if page == "testing" else "finetree"
    lines = [NOTE, f"# {TITLES[page]}", "", f"Part of the [reference](README.md); names of `{prefix}`."]
    for name, member in entries:
        lines += ["", f"## {name}", "", *described(name, member)]
        if member.is_class and not name.startswith(TWIN):
            lines += members(name, member)
        elif member.is_class:
            lines += [
                "",
                f"Methods and attributes: those of [`{name.removeprefix(TWIN)}`](#{anchor(name.removeprefix(TWIN))}).",
            ]
    if page == "client":
        dictionaries = [package[path.removeprefix("finetree.")] for path in KEYWORDS]
        for cls in dictionaries:
            lines += keywords(cls)
        lines += types([*(member for _, member in entries), *dictionaries], package)
    return "\n".join(lines) + "\n"


def described(name: str, member: Any) -> Iterator[str]:
    """Signature and docstring of an object."""
    yield "```python"
    yield signature(name, member)
    yield "```"
    yield ""
    yield from docstring(member)


def members(owner: str, cls: Any) -> Iterator[str]:
    """The public methods and properties of a class, by the class that defines them."""
    for name, member in cls.all_members.items():
        found = target(member)
        if name.startswith("_") or not (found.is_function or "property" in found.labels):
            continue
        yield from ("", f"### {owner}.{name}", "", *described(name, found))


def signature(name: str, member: Any) -> str:
    """Signature as it stands in the code, one parameter a line where it is long."""
    if "property" in member.labels:
        return f"{name}: {member.annotation}"
    function = member.all_members.get("__init__") if member.is_class else member
    if function is None:
        return f"class {name}({', '.join(str(base) for base in member.bases)})" if member.bases else f"class {name}"
    parts, starred = [], False
    for each in target(function).parameters:
        if each.name == "self":
            continue
        kind = each.kind.value
        if kind == "keyword-only" and not starred:
            parts.append("*")
        starred = starred or kind in ("keyword-only", "variadic positional")
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        default = f" = {constant(each.default)}" if each.default is not None and not star else ""
        parts.append(f"{star}{each.name}: {each.annotation}{default}")
    returns = "" if member.is_class else f" -> {member.returns}"
    head = f"class {name}" if member.is_class else f"async def {name}" if "async" in member.labels else f"def {name}"
    line = f"{head}({', '.join(parts)}){returns}"
    return line if len(line) <= 100 else f"{head}(\n    " + ",\n    ".join(parts) + f",\n){returns}"


def constant(default: Any) -> str:
    """A default as a value, where the code names a constant."""
    named = target(default.resolved) if isinstance(default, griffe.ExprName) and default.resolved else None
    return str(default if named is None or named.value is None else named.value)


def docstring(member: Any) -> Iterator[str]:
    """Docstring, its sections as lists."""
    if member.docstring is None:
        return
    for number, section in enumerate(member.docstring.parse("google")):
        yield from [""] if number else []
        if section.kind.value == "text":
            yield from text(section.value)
        elif section.kind.value in ("parameters", "attributes", "other parameters"):
            yield from (f"* `{item.name}`: {one_line(item.description)}" for item in section.value)
        elif section.kind.value == "raises":
            yield "Raises:"
            yield ""
            yield from (f"* `{item.annotation}`: {one_line(item.description)}" for item in section.value)
        elif section.kind.value == "returns":
            yield f"Returns: {one_line(' '.join(item.description for item in section.value))}"
        else:
            raise ValueError(f"{member.path}: a section of the kind {section.kind.value} has no form here")


def text(value: str) -> Iterator[str]:
    """Text of a docstring; what is indented in it is code."""
    code = False
    for line in value.splitlines():
        indented = line.startswith("    ")
        if indented and not code:
            yield "```python"
        if code and line and not indented:
            yield "```"
            yield ""
        code = indented or (code and not line)
        yield line.removeprefix("    ") if code else line
    if code:
        yield "```"


def keywords(cls: Any) -> Iterator[str]:
    """A dictionary of keyword arguments."""
    yield from ("", f"## {cls.name}", "", *docstring(cls), "", "| key | type | |", "| --- | --- | --- |")
    for name, member in cls.members.items():
        if member.is_attribute:
            meaning = one_line(member.docstring.value) if member.docstring is not None else ""
            yield f"| `{name}` | `{cell(str(member.annotation))}` | {cell(meaning)} |"


def annotations(member: Any) -> Iterator[Any]:
    """The annotations of an object: of a function, of a class's methods, of a dictionary's keys."""
    if member.is_class:
        for each in member.all_members.values():
            yield from annotations(target(each))
    elif member.is_function:
        yield from (member.returns, *(each.annotation for each in member.parameters))
    elif member.is_attribute:
        yield member.annotation


def types(shown: Iterable[Any], package: Any) -> Iterator[str]:
    """The names for types that the page uses, with what they stand for."""
    used: dict[str, str] = {}
    for annotation in (found for member in shown for found in annotations(member)):
        for part in annotation.iterate(flat=True) if isinstance(annotation, griffe.Expr) else ():
            if not isinstance(part, griffe.ExprName) or not part.canonical_path.startswith("finetree."):
                continue
            named = target(package[part.canonical_path.removeprefix("finetree.")])
            if named.is_attribute and named.value is not None:
                used[named.name] = one_line(str(named.value))
    yield from ("", "## Types of arguments", "", "| name | stands for |", "| --- | --- |")
    yield from (f"| `{name}` | `{cell(value)}` |" for name, value in sorted(used.items()))


def summary(member: Any) -> str:
    """First line of a docstring."""
    if member.docstring is None:
        raise ValueError(f"{member.path} has no docstring")
    return str(member.docstring.value).splitlines()[0]


def one_line(value: str) -> str:
    """Text on one line."""
    return " ".join(value.split())


def cell(value: str) -> str:
    """Text for a cell of a table."""
    return value.replace("|", "\\|")


def anchor(heading: str) -> str:
    """Anchor that a heading gets."""
    return heading.lower().replace(".", "").replace("`", "")


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    only_check = parser.parse_args().check
    old = [name for name, page in pages().items() if not (PAGES / name).exists() or (PAGES / name).read_text() != page]
    if only_check:
        print("\n".join(f"docs/sdk/{name} is out of date: make reference" for name in old), end="\n" if old else "")
        return 1 if old else 0
    PAGES.mkdir(exist_ok=True)
    for name, page in pages().items():
        (PAGES / name).write_text(page, encoding="utf-8")
    print(f"{len(old)} pages changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
