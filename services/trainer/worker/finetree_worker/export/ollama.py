# SPDX-License-Identifier: Apache-2.0
"""A model's chat template in Ollama's language, which does not read the Jinja template of a file.

Ollama takes a template of its own for the Jinja ones that it recognizes, and none for others: the model then reads its
prompt without any marks of turns. What is written here are the texts around turns, found by rendering small chats, and
only where putting them together again gives what the template gives.
"""

from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.tool_calls import TEMPLATE_ERRORS

_MARKS = ("\ue000", "\ue001", "\ue002", "\ue003")
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

    def text(self, turns: list[tuple[str, str]]) -> str:
        """Return a chat (role, content) with the beginning of the assistant's next answer."""
        around = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}
        begin = self.first_with_system if turns[0][0] == "system" else self.first
        body = "".join(around[role][0] + content + around[role][1] for role, content in turns)
        return begin + body + self.assistant[0]


def turns_of(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """Return the texts around turns of the tokenizer's chat template; None where they depend on more than the role."""
    template = ChatTemplate(tokenizer)
    if not template.exists:
        return None
    system, *asked = _MARKS

    def render(*turns: tuple[str, str]) -> str:
        plain = [{"role": role, "content": content} for role, content in turns]
        return template.render(plain, None, prompt=True, plain=True)

    chat = [("user", asked[0]), ("assistant", asked[1]), ("user", asked[2])]
    try:
        first, middle, second, header = _around(render(*chat), asked)
        before, system_end, *_ = _around(render(("system", system), chat[0]), [system, asked[0]])
        whole = render(("system", system), *chat)
    except (*TEMPLATE_ERRORS, ValueError):
        before, system_end, whole = "", "", ""
        try:
            first, middle, second, header = _around(render(*chat), asked)
        except (*TEMPLATE_ERRORS, ValueError):
            return None
    found = _separate(first, middle, second, header)
    if found is None:
        return None
    if whole and system_end.endswith(found.user[0]):
        ending = system_end.removesuffix(found.user[0])
        found = Turns(("", ending), found.user, found.assistant, found.first, before)
        if found.text([("system", system), *chat]) != whole:
            found = Turns(None, found.user, found.assistant, found.first, "")
    return found if found.text(chat) == render(*chat) else None


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


def _separate(first: str, middle: str, second: str, end: str) -> Turns | None:
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


def template(tokenizer: PreTrainedTokenizerBase, turns: Turns, *, add_bos: bool) -> str:
    """Return the turns as a Go template for Ollama, which adds the BOS token itself where the file says so."""
    bos = str(tokenizer.bos_token) if add_bos and tokenizer.bos_token else ""
    first, with_system = (text.removeprefix(bos) for text in (turns.first, turns.first_with_system))
    system = turns.system or ("", "")
    begin = "{{- range $i, $_ := .Messages }}"
    if turns.system is None:
        head = f"{{{{- if eq $i 0 }}}}{_text(first)}{{{{- end }}}}"
    else:
        head = (
            f'{{{{- if eq $i 0 }}}}{{{{- if eq .Role "system" }}}}{_text(with_system)}'
            f"{{{{- else }}}}{_text(first)}{{{{- end }}}}{{{{- end }}}}"
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
    turns = turns_of(tokenizer)
    if turns is not None:
        written = template(tokenizer, turns, add_bos=add_bos)
        if _QUOTES not in written:
            lines.append(f"TEMPLATE {_QUOTES}{written}{_QUOTES}")
    lines += [f'PARAMETER stop "{text}"' for text in stop if '"' not in text]
    return "\n".join(lines) + "\n"
