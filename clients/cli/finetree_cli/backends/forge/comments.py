# SPDX-License-Identifier: Apache-2.0
"""One comment, whatever the site: found by its marker and its author, made once, edited afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MARKER = "<!-- finetree: {} -->"
"""First line of the comment, which no reader sees; the name parts several comments of one pull request."""


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment of the site."""

    id: int
    body: str
    is_ours: bool
    """Whether whoever the token belongs to has written it: anybody can copy the marker."""


class Thread(Protocol):
    """The comments of a pull request or merge request."""

    @property
    def max_length(self) -> int:
        """Most characters of a comment."""
        ...

    def comments(self) -> Iterator[Comment]:
        """List the comments from the oldest."""
        ...

    def add(self, body: str) -> None:
        """Make a comment."""
        ...

    def edit(self, comment: Comment, body: str) -> None:
        """Replace a comment's text."""
        ...

    def remove(self, comment: Comment) -> None:
        """Delete a comment."""
        ...


def put(thread: Thread, text: str, *, name: str) -> str:
    """Make our comment of that name say a text, and return what was done: "made", "edited" or "left as it is".

    A second one, which two runs at the same time may have made, is removed.
    """
    marker = MARKER.format(name)
    body = f"{marker}\n{text.strip()}"
    mine = [each for each in thread.comments() if each.is_ours and each.body.startswith(marker)]
    if not mine:
        thread.add(body)
        return "made"
    for double in mine[1:]:
        thread.remove(double)
    # Both sites may give line ends back as they like.
    if mine[0].body.replace("\r\n", "\n").strip() == body:
        return "left as it is"
    thread.edit(mine[0], body)
    return "edited"
