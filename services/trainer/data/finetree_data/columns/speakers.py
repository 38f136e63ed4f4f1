# SPDX-License-Identifier: Apache-2.0
"""Names of speakers at the beginning of the lines of a transcript."""

import re

_USERS = ("user", "human", "customer", "client", "caller", "patient", "student", "guest", "visitor")
_ASSISTANTS = (
    *("assistant", "agent", "bot", "chatbot", "ai", "gpt", "chatgpt", "advisor", "operator", "representative", "rep"),
    *("support", "doctor", "therapist", "counselor", "tutor", "customer service", "customer support"),
    *("support agent", "service agent"),
)
SPEAKERS = dict.fromkeys(_USERS, "user") | dict.fromkeys(_ASSISTANTS, "assistant")
"""Names that speakers have in transcripts, in lower case, and their roles."""
LABEL = re.compile(
    r"(?:^|\n)[ \t]*(?:\#{2,3} |\*\*)?("
    + "|".join(sorted(SPEAKERS, key=len, reverse=True))
    + r")(?:\*\*)?[ \t]*:(?:\*\*)?",
    re.IGNORECASE,
)
"""A speaker's name at the beginning of a line."""


def speakers_of(text: str) -> list[str]:
    """Return the roles of the speakers that a text names at the beginning of its lines, if it begins with one."""
    if ":" not in text or LABEL.match(text) is None:
        return []
    return [SPEAKERS[name.lower()] for name in LABEL.findall(text)]
