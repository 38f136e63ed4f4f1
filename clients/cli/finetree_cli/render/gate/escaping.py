# SPDX-License-Identifier: Apache-2.0
"""Foreign text in Markdown of GitHub and GitLab: names of files, models and labels come from whoever opens a change.

A character that means something to Markdown is written as its HTML entity, which both sites show as the character and
never read as markup. Mentions and references (@ada, #12, !3, ~label, %milestone, &epic) and bare links are looked for
after entities are resolved, so a zero-width space parts their first character from the rest. Control characters are
dropped and white space becomes one space: nothing foreign begins a line, where GitLab reads quick actions (/approve).
"""

import re
import unicodedata

ZERO_WIDTH_SPACE = "&#8203;"
_MARKUP = re.compile(r"[#$&*<>@\[\\\]^_`{|}~!]|%(?=[\w\"])")
_REFERENCE = re.compile(r"&#(?:33|35|37|38|64|126);(?=[^\s)])")
_LINK = re.compile(r"www(?=\.)|:(?=//)", re.IGNORECASE)
_BLOCK = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")
"""What opens a list or underlines a heading, were the text to begin a line."""
_SPAN = re.compile(r"[^`|\\]+")
_NO_WORD = re.compile(r"[^\w ]|_")


def one_line(text: str) -> str:
    """Replace white space by single spaces and drop characters that control a terminal or the direction of writing."""
    spaced = " ".join(text.split())
    return "".join(letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cf", "Cs"))


def prose(text: str) -> str:
    """Format text for a paragraph, a cell of a table or an item of a list."""
    marked = _MARKUP.sub(lambda match: _entity(match[0]), one_line(text))
    parted = _LINK.sub(rf"\g<0>{ZERO_WIDTH_SPACE}", _REFERENCE.sub(rf"\g<0>{ZERO_WIDTH_SPACE}", marked))
    return _BLOCK.sub(lambda match: match[1] + _entity(match[2]), parted)


def code(text: str) -> str:
    """Format text as code, where the sites look for no mention; also inside a table, in which `|` parts cells."""
    line = one_line(text)
    if not line or _SPAN.fullmatch(line):
        return f"`{line}`" if line else ""
    return f"<code>{_NO_WORD.sub(lambda match: _entity(match[0]), line)}</code>"


def _entity(letter: str) -> str:
    return f"&#{ord(letter)};"
