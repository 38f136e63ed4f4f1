# SPDX-License-Identifier: Apache-2.0
"""docs/api: everything that clients see of the contract stands there, and links inside of the pages lead somewhere."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor

sys.path.append(str(Path(__file__).resolve().parents[3] / "protos"))

from api_reference import error_list, escape
from field_rules import field_rules, message_rules

ROOT = Path(__file__).resolve().parents[3]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "api").glob("*.md"))}
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?:(\w+)\.md)?#([^)]+)\)")


def contract() -> list[FileDescriptor]:
    """The files of the packages that clients speak to."""
    api = ROOT / "protos" / "finetree_api"
    names = [path.relative_to(ROOT / "protos").with_suffix("") for path in sorted(api.rglob("*.proto"))]
    modules = [".".join(name.parts) + "_pb2" for name in names if name.parts[1] != "worker"]
    return [import_module(module).DESCRIPTOR for module in modules]


def anchors(page: str) -> list[str]:
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(PAGES[page])]


def chapter(page: str, name: str) -> str:
    found = re.search(rf"^#+ {name}$(.*?)(?=^#|\Z)", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert found, f"{page}.md has no chapter {name}"
    return found[1]


def rows(text: str) -> dict[str, str]:
    """What the last column of a table says, by what stands in backticks in the first."""
    return dict(re.findall(r"^\| `(\w+)` \d+ \|(?:.*\|)? (.*) \|$", text, flags=re.MULTILINE))


def values(page: str, enum: EnumDescriptor) -> None:
    said = rows(chapter(page, enum.name))
    assert [*said] == [value.name for value in enum.values]
    assert all(said.values())


@pytest.mark.parametrize("file", contract(), ids=lambda file: file.name)
def test_a_page_has_everything_of_a_file(file):
    page = file.package.split(".")[1]
    for service in file.services_by_name.values():
        for rpc in service.methods:
            said = chapter(page, rpc.name)
            assert f"[{rpc.input_type.name}](" in said
            assert f"[{rpc.output_type.name}](" in said
            assert "\nErrors:" in said
    for message in file.message_types_by_name.values():
        said = rows(chapter(page, message.name))
        assert [*said] == [field.name for field in sorted(message.fields, key=lambda field: field.index)]
        assert all(said.values()), message.name
    for enum in file.enum_types_by_name.values():
        values(page, enum)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_one_chapter(page):
    for there, anchor in LINK.findall(PAGES[page]):
        assert anchors(there or page).count(anchor) == 1, (there, anchor)


def test_errors_are_listed_by_status_code_and_keep_their_words():
    said = "those of Recommend, NOT_FOUND (A, B: take one [of] these), INVALID_ARGUMENT (C: correct it)."
    assert error_list(said).splitlines() == [
        "Errors: those of Recommend",
        "",
        r"* **NOT_FOUND** (A, B: take one \[of\] these)",
        "* **INVALID_ARGUMENT** (C: correct it)",
    ]
    assert error_list(" none but those of every rpc.") == "Errors: none but those of every rpc."


def test_what_markdown_would_interpret_is_escaped():
    assert escape("a * b | c <d> `e|f*g`") == r"a \* b \| c \<d> `e\|f*g`"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"string": {"minLen": "1", "maxLen": "9", "pattern": "^a$"}}, "1 to 9 characters; matches `^a$`"),
        ({"bytes": {"maxLen": "10"}}, "at most 10 bytes"),
        ({"double": {"gt": 0, "lte": 1}}, "above 0 and at most 1"),
        ({"int64": {"gte": "0", "lte": "9"}}, "0 to 9"),
        ({"required": True, "enum": {"definedOnly": True, "notIn": [0]}}, "required; a defined value; not unspecified"),
        (
            {"repeated": {"minItems": "1", "unique": True, "items": {"string": {"maxLen": "2"}}}},
            "at least 1 items; no item twice; each: at most 2 characters",
        ),
        (
            {"map": {"maxPairs": "2", "keys": {"string": {"minLen": "1"}}}},
            "at most 2 pairs; keys: at least 1 characters",
        ),
        ({"cel": [{"id": "a", "message": "must be whole", "expression": "true"}]}, "must be whole"),
    ],
)
def test_a_rule_is_said_in_words(rules, words):
    assert field_rules({"[buf.validate.field]": rules}) == words


@pytest.mark.parametrize(
    "rules", [{"string": {"email": True}}, {"fixed32": {"gt": 1}}, {"ignore": "IGNORE_IF_ZERO_VALUE"}]
)
def test_a_rule_without_words_is_refused_rather_than_left_out(rules):
    with pytest.raises(NotImplementedError, match="no words"):
        field_rules({"[buf.validate.field]": rules})
    assert message_rules({}) == ""
