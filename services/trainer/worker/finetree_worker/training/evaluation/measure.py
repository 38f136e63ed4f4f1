# SPDX-License-Identifier: Apache-2.0
"""Measuring one model on rows: losses by row, log-likelihoods of choices, greedy answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.data.packing import collate, pack
from finetree_worker.data.prefixes import Sharing
from finetree_worker.errors import DataError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.render import Rendered, for_template
from finetree_worker.tokenize.rows import Row, RowFormat
from finetree_worker.tokenize.tokenizer import RowTokenizer, TokenBlock, blocks
from finetree_worker.training.attention import by_document
from finetree_worker.training.evaluate import answers, in_memory
from finetree_worker.training.evaluation.metrics import Choice, RowScore
from finetree_worker.training.loss import sharing, target_scores

FORWARD_TOKENS = 4096
"""Tokens of one forward pass: without gradients this needs less memory than a training step."""
WINDOW = 1024
"""Number of examples that are packed together."""
OnFraction = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class ChoiceExamples:
    """The choices of a row, each as the tokens of question and choice, those of the choice learned."""

    examples: tuple[Example, ...]
    characters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """Rows as one kind of model is asked them: alone, or with examples before them.

    `examples` are the rows' tokens, `choices` empty where the rows have none, `questions` the places of the rows that
    are answered.
    """

    rows: Sequence[Row]
    examples: Sequence[Example]
    choices: Sequence[ChoiceExamples] = ()
    questions: Sequence[int] = ()

    @property
    def loss_tokens(self) -> int:
        """Tokens that losses and log-likelihoods are computed from."""
        return sum(map(len, self.examples)) + sum(len(one) for row in self.choices for one in row.examples)


def tokenized(
    rows: Sequence[Row],
    row_format: RowFormat,
    *,
    tokenizer: PreTrainedTokenizerBase,
    append_eos: bool = True,
) -> list[Example]:
    """Tokenize whole rows as training does; Example.row is a row's place. Raises DataError."""
    maker = RowTokenizer(tokenizer, LossOn.COMPLETIONS, append_eos=append_eos)
    found: list[Example] = []
    for block in blocks(rows):
        made = maker.block(block, maker.render(block, row_format))
        found += _examples(made, len(found))
    return found


def choice_examples(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[ChoiceExamples]:
    """Tokenize each row with each of its choices as its answer, of which the tokens of the choice alone are learned.

    Nothing is truncated, and no end-of-sequence token is added: the likelihood is that of the words, as in
    lm-evaluation-harness. Raises DataError.
    """
    maker, template = RowTokenizer(tokenizer, LossOn.COMPLETIONS, append_eos=False), ChatTemplate(tokenizer)
    found = []
    for row in rows:
        asked = [replace(row, messages=(*row.messages[:-1], replace(row.messages[-1], content=c))) for c in row.choices]
        made = maker.block(asked, [_rendered_choice(one, template) for one in asked])
        examples = _examples(made, 0)
        found.append(ChoiceExamples(tuple(examples), tuple(map(len, row.choices))))
    return found


def _rendered_choice(row: Row, template: ChatTemplate) -> Rendered:
    """Render a row whose answer is a choice, the characters of the choice as its learned span."""
    choice = row.messages[-1].content
    if not template.exists:
        prompt = "\n\n".join(message.content for message in row.messages[:-1])
        return Rendered(row.number, prompt + choice, ((len(prompt), len(prompt) + len(choice)),))
    chat = Conversation(for_template(row, template), template)
    text, marks = chat.text().rstrip(), template.answer_marks
    end = marks.end if marks is not None else ""
    shown = choice if choice in text else choice.strip()  # templates may strip what they render
    if text.endswith(shown + end):
        start = len(text) - len(end) - len(shown)
    else:
        start = text.find(shown, len(chat.text(len(row.messages) - 1, prompt=True)))
    if start < 0:
        raise DataError(
            "UNSUPPORTED_TEMPLATE",
            f"Row {row.number}: the model's chat template does not show where a choice begins.",
            field=f"dataset[{row.number}]",
            remedy="Use a model whose template renders answers as they are.",
            row=row.number,
        )
    return Rendered(row.number, text, ((start, start + len(shown)),))


def _examples(block: TokenBlock, first: int) -> list[Example]:
    """Return the examples of a block; Example.row counts from `first`."""
    sizes = block.lengths.tolist()
    tokens, learned = (torch.split(torch.as_tensor(part), sizes) for part in (block.tokens, block.learned))
    return [Example(first + i, ids, marked) for i, (ids, marked) in enumerate(zip(tokens, learned, strict=True))]


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: MeasuredRows,
    *,
    max_new_tokens: int,
    on_loss: OnFraction,
    on_answers: OnFraction,
) -> list[RowScore]:
    """Measure a model on rows, in their order. `on_loss` and `on_answers` are called with 0..1 and may raise to stop.

    Raises MemoryExhaustedError where not even one row fits.
    """
    everything = list(asked.examples)
    for row in asked.choices:
        everything += [replace(one, row=len(everything) + i) for i, one in enumerate(row.examples)]
    sums = row_sums(model, everything, on_fraction=on_loss)
    scores = [RowScore(*sums[i]) for i in range(len(asked.rows))]
    at = len(scores)
    for i, row in enumerate(asked.choices):
        own = sums[at : at + len(row.examples)]
        counted = zip(own, row.characters, strict=True)
        choices = tuple(Choice(-nats, tokens, length) for (nats, _, tokens), length in counted)
        scores[i] = replace(scores[i], choices=choices)
        at += len(own)
    if asked.questions:
        rows = [asked.rows[i] for i in asked.questions]
        told = answers(model, tokenizer, rows, max_new_tokens=max_new_tokens, on_fraction=on_answers)
        for i, answer in zip(asked.questions, told, strict=True):
            scores[i] = replace(scores[i], answer=answer)
    return scores


def row_sums(
    model: PreTrainedModel, examples: Sequence[Example], *, on_fraction: OnFraction
) -> list[tuple[float, int, int]]:
    """Return each example's cross entropy over its learned tokens (nats), predicted ones, and learned ones.

    Example.row is an example's place. Sums are made in float64. The model's mode is restored.
    """
    found: list[tuple[float, int, int]] = [(0.0, 0, 0)] * len(examples)
    was_training, shared = model.training, sharing(model)
    model.train(mode=False)
    try:
        with torch.inference_mode(), by_document(model):
            for start in range(0, len(examples), WINDOW):
                window = [one for one in examples[start : start + WINDOW] if one.targets]
                bins = pack(window, max_rows=len(window), max_tokens=FORWARD_TOKENS, packing=True, sharing=shared)
                for done, documents in enumerate(bins, start=1):
                    for part in in_memory(documents, partial(_sums, model, shared)):
                        for row, sums in part:
                            found[row] = sums
                    on_fraction((start + len(window) * done / len(bins)) / len(examples))
    finally:
        model.train(was_training)
    on_fraction(1.0)
    return found


def _sums(
    model: PreTrainedModel, shared: Sharing | None, documents: Sequence[Example]
) -> list[tuple[int, tuple[float, int, int]]]:
    batch = collate(documents, shared).to(model.device)
    nats, correct = (values.cpu().double() for values in target_scores(model, batch))
    owner = batch.owners.cpu()
    zeros, ones = torch.zeros(len(documents), dtype=torch.float64), torch.ones_like(nats)
    columns = (zeros.index_add(0, owner, values).tolist() for values in (nats, correct, ones))
    sums = zip(documents, *columns, strict=True)
    return [(document.row, (loss, round(hits), round(count))) for document, loss, hits, count in sums]
