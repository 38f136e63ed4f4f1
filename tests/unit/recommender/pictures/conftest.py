# SPDX-License-Identifier: Apache-2.0
"""Packs with hostile words, and the check that a drawing is plain SVG."""

import dataclasses
from xml.etree import ElementTree as ET

import pytest


@pytest.fixture
def hostile(pack):
    """Pack whose words would end a text of any format, were they not escaped."""
    words = 'a"] --> x <script>alert(1)</script> & `]]>\x00'
    cards = tuple(dataclasses.replace(card, title=words) for card in pack.rules.methods)
    return dataclasses.replace(pack, rules=dataclasses.replace(pack.rules, methods=cards, id=words))


@pytest.fixture(scope="session")
def assert_plain():
    """Asserts that a drawing is SVG without links, scripts and styles, in which every element has a class."""
    return _assert_plain


def _assert_plain(content: str) -> None:
    root = ET.fromstring(content)
    names = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
    assert names <= {"svg", "title", "desc", "rect", "path", "polygon", "text", "line", "circle"}
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
    for element in root.iter():
        assert not {name for name in element.attrib if name == "style" or name.startswith("on") or "href" in name}
        assert element.tag.endswith(("title", "desc")) or element.get("class")
