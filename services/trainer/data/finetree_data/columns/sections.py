# SPDX-License-Identifier: Apache-2.0
"""Questions and answers that are written as one text under headings: Alpaca's prompt text, and `Q: … A: …`."""

import re

from finetree_data.columns.template_marks import first_turn

INSTRUCTIONS, QUESTIONS = "### Instruction: … ### Response: …", "Q: … A: …"
"""Names of the two forms, for people."""
SEARCHED = 20_000
"""Characters of a text in which headings are looked for, to know whether it has any."""

_ANSWERS = ("response", "answer", "output", "solution", "completion", "a")
_HEADING = re.compile(
    r"(?:^|\n)[ \t]*\#{2,3} ?(Instructions?|Question|Prompt|Task|Problem|Query|Input|Context|System|Response|Answer|"
    r"Output|Solution|Completion) ?:[ \t]*",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|\n)[ \t]*(?:\*\*)?(Q|A|Question|Answer)(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*")
_LABEL_BESIDE_CHOICES = re.compile(r"(?:^|\n)[ \t]*(?:\*\*)?(Q|Question|Answer)(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*")
_CHOICE_B = re.compile(r"\n[ \t]*\(?B[:.)]")
_END = re.compile(r"\s*\#{2,3} ?End\s*$")
"""How Dolly's prompt text ends."""


def form_of(text: str) -> str:
    """Return the form of a text, INSTRUCTIONS or QUESTIONS; "" for neither."""
    bare = text[:SEARCHED][first_turn(text) :].lstrip()
    if "##" in bare:
        roles = [_role(name) for name in _HEADING.findall(bare)]
        if _is_form(roles):
            return INSTRUCTIONS
    if bare[:1] == "Q" or bare[:3] == "**Q":
        label = _label(bare)
        if label.match(bare) and _is_form([_role(name) for name in label.findall(bare)]):
            return QUESTIONS
    return ""


def turns_of(text: str) -> list[tuple[str, str]]:
    """Return the turns, (role, text), of a text that has one of the forms; none of any other.

    What stands before the first heading is the system message; parts of a question are joined.
    """
    form, bare = form_of(text), text[first_turn(text) :].lstrip()
    if not form:
        return []
    pieces = (_HEADING if form == INSTRUCTIONS else _label(bare)).split(_END.sub("", bare))
    found = [
        ("system", pieces[0]),
        *((_role(name), words) for name, words in zip(pieces[1::2], pieces[2::2], strict=True)),
    ]
    turns: list[tuple[str, str]] = []
    for role, words in found:
        said = words.strip()
        if said and turns and turns[-1][0] == role:
            turns[-1] = role, f"{turns[-1][1]}\n\n{said}"
        elif said:
            turns.append((role, said))
    return turns


def _label(text: str) -> re.Pattern[str]:
    """Return the labels of questions and answers; where choices are listed, "A:" is the first of them."""
    return _LABEL_BESIDE_CHOICES if _CHOICE_B.search(text) else _LABEL


def _role(name: str) -> str:
    lower = name.lower()
    return "assistant" if lower in _ANSWERS else "system" if lower == "system" else "user"


def _is_form(roles: list[str]) -> bool:
    """Return whether an answer follows a question."""
    return "user" in roles and "assistant" in roles[roles.index("user") :]
