# SPDX-License-Identifier: Apache-2.0
"""Ask a rule pack's questions on the terminal: one answer on each line, from a person or from a pipe."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.recommender.v1 import recommendation_pb2, rule_pack_pb2

    from finetree_cli.output import Output

KEYS = "a number or a word; Enter: don't know; b: back; q: quit"


def interview(
    policy: "rule_pack_pb2.GetRulePackResponse",
    request: "recommendation_pb2.RecommendRequest",
    out: "Output",
    source: TextIO | None = None,
) -> "list[recommendation_pb2.RecommendRequest]":
    """Ask the questions that the request does not answer yet, add the answers to it, and return what each one adds.

    Raises:
        BadInput: The input is empty and no terminal.
        KeyboardInterrupt: The user quits.
    """
    open_questions = [question for question in policy.questions if not _answered(request, question.field_path)]
    chosen = _Interview(open_questions, out, source or sys.stdin).run()
    added = [option.request for option in chosen if option is not None]
    for part in added:
        request.MergeFrom(part)
    return added


def _answered(request: "recommendation_pb2.RecommendRequest", path: str) -> bool:
    """Tell whether an option of the command answers the question."""
    return any(field.name == path.partition(".")[0] for field, _ in request.ListFields())


class _Interview:
    """State of an interview. It prints on stderr, since stdout has the answer."""

    def __init__(self, questions: "list[rule_pack_pb2.Question]", out: "Output", source: TextIO) -> None:
        self._questions = questions
        self._out = out
        self._source = source
        self._read = 0
        self._ended = False

    def run(self) -> "list[rule_pack_pb2.QuestionOption | None]":
        """Return the chosen options in the order of the questions; None for an unknown answer."""
        chosen: list[rule_pack_pb2.QuestionOption | None] = []
        while True:
            if len(chosen) < len(self._questions):
                answer = self._ask(len(chosen))
            else:
                answer = self._confirm(chosen)
                if answer is not _BACK:
                    return chosen
            if answer is _BACK:
                chosen = chosen[:-1]
            else:
                chosen.append(answer)

    def _ask(self, index: int) -> Any:
        question = self._questions[index]
        self._out.say(f"\n{index + 1} of {len(self._questions)}. {question.text}")
        if question.help:
            self._out.say(f"   {question.help}")
        for number, option in enumerate(question.options, 1):
            self._out.say(_line(number, option))
        while True:
            line = self._line(f"[{KEYS}] ")
            if line == "b":
                return _BACK
            if not line:
                return None
            found = _find(question, line)
            if found is not None:
                return found
            self._out.say(f"{line!r} is not an option: {KEYS}")

    def _confirm(self, chosen: "list[rule_pack_pb2.QuestionOption | None]") -> Any:
        self._out.say("\nYour answers:")
        for question, option in zip(self._questions, chosen, strict=True):
            self._out.say(f"  {question.text} {option.label if option is not None else 'not known'}")
        if not self._questions:
            self._out.say("  the command's options answer every question")
            return None
        return _BACK if self._line("[Enter: continue; b: back; q: quit] ") == "b" else None

    def _line(self, prompt: str) -> str:
        """Read the next answer; empty at the end of the input."""
        if self._ended:
            return ""
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = self._source.readline()
        self._ended = not line
        if self._ended and not self._read:
            text = "--interactive needs a terminal, or answers on stdin"
            raise BadInput(text, remedy="run it in a terminal, or give one answer on each line of stdin")
        self._read += 1
        if not self._source.isatty():
            self._out.say(line.rstrip("\n"))  # a terminal shows what is typed, a pipe does not
        word = line.strip()
        if word.casefold() == "q":
            raise KeyboardInterrupt
        return "b" if word.casefold() == "b" else word


_BACK = object()
"""Answer that goes back to the previous question."""


def _line(number: int, option: "rule_pack_pb2.QuestionOption") -> str:
    badge = f"  [{option.badge}]" if option.badge else ""
    tooltip = f" - {option.tooltip}" if option.tooltip else ""
    return f"   {number}) {option.label}{badge}{tooltip}"


def _find(question: "rule_pack_pb2.Question", line: str) -> "rule_pack_pb2.QuestionOption | None":
    """Find the option by its number, value or label, or by the first letters of exactly one label."""
    if line.isdecimal() and 1 <= int(line) <= len(question.options):
        return question.options[int(line) - 1]
    word = line.casefold()
    exact = [item for item in question.options if word in (item.value.casefold(), item.label.casefold())]
    begun = [item for item in question.options if item.label.casefold().startswith(word)]
    return next(iter(exact), begun[0] if len(begun) == 1 else None)
