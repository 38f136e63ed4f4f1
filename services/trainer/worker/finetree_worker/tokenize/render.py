# SPDX-License-Identifier: Apache-2.0
"""Rendering of rows: the text that the model reads, and the spans of it that count in the loss."""

from dataclasses import dataclass

from finetree_worker.errors import DataError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation
from finetree_worker.tokenize.rows import CONVERSATIONS, Row, RowFormat
from finetree_worker.tokenize.tool_calls import uses_tools, written_out


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as the text that the model reads, with its learned spans (characters, half open)."""

    row: int
    text: str
    spans: tuple[tuple[int, int], ...]


def render(row: Row, row_format: RowFormat, *, template: ChatTemplate, loss_on: LossOn) -> Rendered:
    """Render a row. Raises DataError."""
    if row_format is RowFormat.TEXT:
        return Rendered(row.number, row.text, ((0, len(row.text)),))
    rendered = _chat(for_template(row, template), template, loss_on) if template.exists else _joined(row, row_format)
    if loss_on is not LossOn.ALL:
        return rendered
    return Rendered(rendered.row, rendered.text, ((0, len(rendered.text.rstrip())),))


def for_template(row: Row, template: ChatTemplate) -> Row:
    """Return the row, its functions written as text where the chat template does not render them."""
    return row if not uses_tools(row) or template.knows_tools else written_out(row)


def _joined(row: Row, row_format: RowFormat) -> Rendered:
    if row_format in CONVERSATIONS or row.tools:
        raise DataError(
            "NO_CHAT_TEMPLATE",
            "The dataset is a chat, but the model has no chat template.",
            field="dataset",
            remedy="Train an instruct model, or use rows of prompt and completion, or of text.",
        )
    *asked, completion = (message.content for message in row.messages)
    prompt = "\n\n".join(asked)
    text = prompt + completion
    return Rendered(row.number, text, ((len(prompt), len(text)),))


def _chat(row: Row, template: ChatTemplate, loss_on: LossOn) -> Rendered:
    chat = Conversation(row, template)
    text = chat.text()
    _require_tools(row, text)
    learned = [i for i, message in enumerate(row.messages) if message.role == "assistant" and message.learned]
    if loss_on is LossOn.ALL:
        # The positions of answers are not needed then, and not every template shows them.
        for i in learned:
            _require_thought(row, i, text)
        return Rendered(row.number, text, ())
    if loss_on is LossOn.LAST_COMPLETION:
        learned = learned[-1:]
    marked = _marked_spans(chat, text)
    spans = tuple(marked.get(i) or _span(chat, i, text) for i in learned)
    for i, (start, end) in zip(learned, spans, strict=True):
        _require_thought(row, i, text[start:end])
    return Rendered(row.number, text, spans)


def _marked_spans(chat: Conversation, text: str) -> dict[int, tuple[int, int]]:
    """Return the spans of the answers that stand in `text` as they are, between the template's marks of an answer.

    They are those of `_span`, without rendering the chat again up to each of them.
    """
    answers = [i for i, message in enumerate(chat.row.messages) if message.role == "assistant"]
    marks = chat.template.answer_marks
    # More headers than answers: a message holds one, and which is which does not show.
    if marks is None or text.count(marks.header) != len(answers):
        return {}
    found, at = dict[int, tuple[int, int]](), 0
    for i in answers:
        at = text.index(marks.header, at) + len(marks.header)
        answer = chat.row.messages[i].content + marks.end
        shown = next((shown for shown in (answer, marks.opening + answer) if text.startswith(shown, at)), "")
        if i and shown:
            found[i] = at, at + len(shown)
    return found


def _span(chat: Conversation, turn: int, text: str) -> tuple[int, int]:
    """Return the span of assistant turn `turn` in `text`, from after its header to its end-of-turn token, inclusive."""
    before = chat.text(turn, prompt=True) if turn else ""
    through = text if turn + 1 == len(chat.turns) else chat.text(turn + 1)
    if text.startswith(before) and text.startswith(through) and through.startswith(before):
        return len(before), len(through.rstrip())
    # Templates that rewrite earlier turns once later ones follow (Qwen 3 drops their thoughts): the header is still
    # there, and the turn ends at the next end-of-sequence token.
    eos, row = str(chat.template.tokenizer.eos_token), chat.row.number
    end = text.find(eos, len(before))
    if text.startswith(before) and end >= 0:
        return len(before), end + len(eos)
    raise DataError(
        "UNSUPPORTED_TEMPLATE",
        f"Row {row}: the model's chat template does not show where the answer in messages[{turn}] begins.",
        field=f"dataset[{row}].messages[{turn}]",
        remedy='Set loss_tokens to LOSS_TOKENS_ALL, or use rows of "text", which no template changes.',
        row=row,
    )


def _require_thought(row: Row, turn: int, rendered: str) -> None:
    """Refuse a learned answer whose reasoning the template leaves out, as Qwen 3's does before a later question.

    Learned like this the model would be taught to answer without it.
    """
    content = row.messages[turn].content
    if "</think>" not in content:
        return
    thought = content.partition("</think>")[0].rpartition("<think>")[2].strip()
    if thought in rendered:
        return
    last = not any(message.role == "assistant" for message in row.messages[turn + 1 :])
    fewer = "" if last else "Set loss_tokens to LOSS_TOKENS_LAST_COMPLETION, or write a row for each answer; or "
    raise DataError(
        "REASONING_NOT_RENDERED",
        f"Row {row.number}: the model's chat template leaves out the reasoning (<think> … </think>) of "
        f"messages[{turn}], so that the answer would be learned without it.",
        field=f"dataset[{row.number}].messages[{turn}]",
        remedy=f"{fewer}{'train' if fewer else 'Train'} a model whose template keeps it, or take it out of the rows.",
        row=row.number,
    )


def _require_tools(row: Row, text: str) -> None:
    """Refuse a row whose functions or calls the template leaves out: half of it would be learned silently."""
    called = [call["function"]["name"] for message in row.messages for call in message.tool_calls]
    offered = [str(tool["function"].get("name", "")) for tool in row.tools if isinstance(tool.get("function"), dict)]
    lost = next((name for name in called + offered if name and name not in text), "")
    if lost:
        raise DataError(
            "TOOLS_NOT_RENDERED",
            f"Row {row.number}: the model's chat template leaves out the function {lost[:60]!r}.",
            field=f"dataset[{row.number}]." + ("tools" if lost in offered else "messages"),
            remedy="Use a model whose chat template supports tools, or write the calls into the messages' content.",
            row=row.number,
        )
