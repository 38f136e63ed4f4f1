# SPDX-License-Identifier: Apache-2.0
"""Foreign text in Markdown: it is shown as it is, and is never markup, a mention, a reference, a link or a command."""

import html
import re
from html.parser import HTMLParser

import pytest
from finetree_cli.render.gate.escaping import code, one_line, prose
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

SITE = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
"""What both sites are built on; their mentions, references and links come after it, in text outside code."""
HOSTILE = [
    "a|b|c",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "<!-- --> <img src=x onerror=y>",
    "@ada and @acme/team",
    "#12 acme/repo#3 !4 ~bug %v1 &5 $6",
    "https://evil.example/?q=1 www.evil.example WWW.evil.example",
    "[click](javascript:x) ![](http://x) [1]: http://x",
    "**bold** __bold__ ~~gone~~ _it_ {+ more +} $x$ $`y`$",
    "/approve",
    "first\n/approve\r\n# heading\n| a | b |\n- item\u2028/close",
    "1. item",
    "- item",
    "+ item",
    "===",
    "\\| \\` a\\",
    "\x1b[31m\x00\u202e\u200b",
    "&lt;b&gt; &#64;ada &amp;",
    "::error::x",
    "<details><summary>",
    "</td></table>",
]
TEXTS = st.text(st.sampled_from("ab1 @#!~%&$|`*_<>[]()\\:/.-+=\n\r\t\u2028{}\"'"), max_size=30)
MENTION = re.compile(r"[@#!~&](?=\w)|%(?=\w)|://|www\.", re.IGNORECASE)


class Shown(HTMLParser):
    """The tags of a page, its text outside code, and all of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside = self.text = ""
        self.depth = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser's signature
        self.tags.append(tag)
        self.depth += tag == "code"

    def handle_endtag(self, tag):
        self.depth -= tag == "code"

    def handle_data(self, data):
        self.text += data
        self.outside += " " if self.depth else data


def page(markdown: str) -> Shown:
    return Shown(SITE.render(markdown))


def unmarked(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u200b", "")).strip()


def in_table(cell: str) -> str:
    return f"| a | b |\n| --- | --- |\n| {cell} | end |\n"


def hostile(test):
    for text in HOSTILE:
        test = example(text)(test)
    return given(TEXTS)(test)


@hostile
def test_prose_is_shown_as_it_is_and_is_nothing_else(text):
    shown = page(in_table(prose(text)))
    assert shown.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert unmarked(shown.text) == f"a b {one_line(text)} end".replace("  ", " ")
    assert not MENTION.search(shown.outside)


@hostile
def test_code_is_shown_as_it_is_and_is_nothing_else(text):
    shown = page(in_table(code(text)))
    one = ["code"] if one_line(text) else []
    assert shown.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", *one, "td"]
    assert unmarked(shown.text) == f"a b {one_line(text)} end".replace("  ", " ")


@hostile
def test_in_a_list_or_alone_it_opens_no_block(text):
    assert page(f"- {prose(text)}\n").tags in (["ul", "li"], ["ul"])
    assert page(prose(text)).tags in ([], ["p"])
    assert "\n" not in prose(text) + code(text)
    assert not prose(text).startswith(("- ", "# ", "> "))


@pytest.mark.parametrize("text", ["/approve", "first\n/approve", "\u2028/close"])
def test_no_line_of_ours_begins_with_foreign_text_that_gitlab_runs(text):
    """A quick action stands at the beginning of a line; ours begin with `-`, `|`, `#` or words of ours."""
    assert "\n" not in html.unescape(prose(text))
