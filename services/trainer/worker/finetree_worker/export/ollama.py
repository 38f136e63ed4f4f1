# SPDX-License-Identifier: Apache-2.0
"""A model's chat template in Ollama's language, which does not read the Jinja template of a file.

Ollama takes a template of its own for the Jinja ones that it recognizes, and none for others: the model then reads its
prompt without any marks of turns. What is written here are the texts around turns, found by rendering small chats, and
only where putting them together again gives what the template gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.tool_calls import TEMPLATE_ERRORS

_MARKS = ("\ue000", "\ue001", "\ue002", "\ue003", "\ue004", "\ue005")
"""Contents of the turns that are rendered: characters of private use, which no template has."""
_QUOTES = '"""'  # end a template in a Modelfile


@dataclass(frozen=True, slots=True)
class Turns:
    """Texts around the turns of a chat: (before, after) by role, and what begins a chat without a system message."""

    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    first: str
    first_with_system: str

    def text(self, turns: Sequence[tuple[str, str]]) -> str:
        """Return a chat (role, content) with the beginning of the assistant's next answer."""
        around = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}
        begin = self.first_with_system if turns[0][0] == "system" else self.first
        body = "".join(around[role][0] + content + around[role][1] for role, content in turns)
        return begin + body + self.assistant[0]


def turns_of(tokenizer: PreTrainedTokenizerBase, *, add_bos: bool) -> Turns | None:
    """Return the texts around turns of a tokenizer's chat template, None where they depend on more than the role.

    With `add_bos` the program that reads the file adds the BOS token, which is left out here.
    """
    template, bos = ChatTemplate(tokenizer), str(tokenizer.bos_token) if add_bos and tokenizer.bos_token else ""
    if not template.exists:
        return None

    def render(turns: Sequence[tuple[str, str]]) -> str:
        plain = [{"role": role, "content": content} for role, content in turns]
        return template.render(plain, None, prompt=True, plain=True).removeprefix(bos)

    system, *contents = _MARKS
    chat = list(zip(("user", "assistant", "user", "assistant", "user"), contents, strict=True))
    try:
        first, middle, second, end = _around(render(chat[:3]), contents[:3])
        found = _separate(first, middle, second, end=end)
        if found is None or any(found.text(chat[:length]) != render(chat[:length]) for length in (1, 3, 5)):
            return None
    except (*TEMPLATE_ERRORS, ValueError):
        return None
    try:
        before, behind, _ = _around(render([("system", system), chat[0]]), [system, contents[0]])
        told = replace(found, system=("", behind.removesuffix(found.user[0])), first_with_system=before)
        with_system = [("system", system), *chat[:3]]
        return told if told.text(with_system) == render(with_system) else found
    except (*TEMPLATE_ERRORS, ValueError):
        # A template without a system message: Ollama leaves it out.
        return found


def _around(text: str, contents: list[str]) -> list[str]:
    """Return what stands before, between and behind contents that each stand once in a text. Raises ValueError."""
    if any(text.count(content) != 1 for content in contents):
        raise ValueError("a content is left out or repeated")
    borders = [(-1, 0), *((text.index(content), text.index(content) + len(content)) for content in contents)]
    ends = [*(start for start, _ in borders[1:]), len(text)]
    parts = [text[begin:end] for (_, begin), end in zip(borders, ends, strict=True)]
    if any(left > right for (left, _), (right, _) in pairwise(borders[1:])):
        raise ValueError("the contents stand in another order")
    return parts


def _separate(first: str, middle: str, second: str, *, end: str) -> Turns | None:
    """Tell apart the end of a user's turn and the beginning of an answer, and the other way round.

    `middle` stands between question and answer, `second` between answer and question, `end` behind the last question,
    where it begins the next answer.
    """
    if middle != end:
        return None
    opening = _shared_end(first, second)
    answer_end = second.removesuffix(opening) if opening else second
    return Turns(None, (opening, middle), ("", answer_end), first.removesuffix(opening), "")


def _shared_end(left: str, right: str) -> str:
    """Return the longest text that both end in."""
    length = 0
    while length < min(len(left), len(right)) and left[-length - 1] == right[-length - 1]:
        length += 1
    return left[len(left) - length :]


def template(turns: Turns) -> str:
    """Return the turns as a Go template for Ollama."""
    system = turns.system or ("", "")
    begin = "{{- range $i, $_ := .Messages }}"
    if turns.system is None:
        head = f"{{{{- if eq $i 0 }}}}{_text(turns.first)}{{{{- end }}}}"
    else:
        head = (
            f'{{{{- if eq $i 0 }}}}{{{{- if eq .Role "system" }}}}{_text(turns.first_with_system)}'
            f"{{{{- else }}}}{_text(turns.first)}{{{{- end }}}}{{{{- end }}}}"
        )
    roles = [("system", system)] if turns.system is not None else []
    body = ""
    for i, (role, (before, after)) in enumerate([*roles, ("user", turns.user), ("assistant", turns.assistant)]):
        word = "if" if i == 0 else "else if"
        body += f'{{{{- {word} eq .Role "{role}" }}}}{_text(before)}{{{{ .Content }}}}{_text(after)}'
    return f"{begin}{head}{body}{{{{- end }}}}{{{{- end }}}}"


def _text(text: str) -> str:
    """Return a text as an action of a Go template, in which white space beside actions would be text too."""
    if not text:
        return ""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'{{{{ "{quoted}" }}}}'


def modelfile(
    file: str, tokenizer: PreTrainedTokenizerBase, stop: list[str], *, add_bos: bool, adapter: str = ""
) -> str:
    """Return the Modelfile of a GGUF file beside it; with its template where that can be said in Ollama's language.

    `adapter` names a file with a LoRA adapter for a base that is `file`.
    """
    lines = [f"FROM ./{file}"]
    if adapter:
        lines.append(f"ADAPTER ./{adapter}")
    turns = turns_of(tokenizer, add_bos=add_bos)
    if turns is not None:
        written = template(turns)
        if _QUOTES not in written:
            lines.append(f"TEMPLATE {_QUOTES}{written}{_QUOTES}")
    lines += [f'PARAMETER stop "{text}"' for text in stop if '"' not in text]
    return "\n".join(lines) + "\n"
