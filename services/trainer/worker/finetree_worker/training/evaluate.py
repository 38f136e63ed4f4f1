# SPDX-License-Identifier: Apache-2.0
"""Evaluation on held-out rows: loss and accuracy per learned token, and exact answers to questions."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from finetree_worker.data.packing import collate, pack
from finetree_worker.data.prefixes import Sharing
from finetree_worker.device_memory import free_cache, is_out_of_memory
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.methods import prefix
from finetree_worker.methods.peft_format import quiet_peft
from finetree_worker.ranks.alone import Alone
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.render import for_template
from finetree_worker.tokenize.rows import Row
from finetree_worker.tokenize.tokenizer import leading_bos
from finetree_worker.training.attention import as_loaded, by_document
from finetree_worker.training.loss import sharing, target_scores

Item = TypeVar("Item")
Result = TypeVar("Result")
WINDOW_ROWS = 1024
"""Number of held-out rows that are packed together."""
BATCH_QUESTIONS = 40
"""Number of questions that are answered in one batch; its memory is that of their caches."""


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over learned tokens: cross entropy (nats), tokens that the model predicts, all tokens; and over rows.

    The last five are of each row's nats, correct tokens and tokens: their squares and products, for standard errors.
    """

    nats: float = 0.0
    correct: int = 0
    tokens: int = 0
    rows: int = 0
    nats_squared: float = 0.0
    tokens_squared: float = 0.0
    nats_by_tokens: float = 0.0
    correct_squared: float = 0.0
    correct_by_tokens: float = 0.0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def loss(self) -> float:
        """Mean cross entropy (nats) per learned token; may be infinite or not a number."""
        return self.nats / max(1, self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of the learned tokens that are the model's most probable ones."""
        return self.correct / max(1, self.tokens)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the loss (nats), with rows as what was drawn; None for fewer than two rows.

        A row's tokens go together, so the loss is a ratio of two sums over rows, whose variance is that of the
        residuals nats - loss * tokens (ratio estimator; Cochran, Sampling Techniques, 1977, section 6.3).
        """
        return self._error(self.nats_squared - 2 * self.loss * self.nats_by_tokens + self.loss**2 * self.tokens_squared)

    @property
    def accuracy_standard_error(self) -> float | None:
        """Standard error of the accuracy, in the same way; None for fewer than two rows."""
        share = self.accuracy
        return self._error(self.correct_squared - 2 * share * self.correct_by_tokens + share**2 * self.tokens_squared)

    def _error(self, residuals: float) -> float | None:
        """Standard error of a ratio, from the sum of its squared residuals over rows."""
        if self.rows < 2 or not self.tokens:
            return None
        return math.sqrt(max(0.0, residuals) * self.rows / (self.rows - 1)) / self.tokens


def score(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    on_fraction: Callable[[float], None],
    ranks: Alone | None = None,
) -> Score:
    """Measure loss and token accuracy, in forward passes of `max_tokens`.

    `on_fraction` is called with 0..1 and may raise to stop. The model's mode is restored. Of several ranks each
    computes a part, and all get the sum. Raises MemoryExhaustedError when not even one row fits.
    """
    total, was_training, ranks = Score(), model.training, ranks or Alone()
    shared = sharing(model)
    measure = partial(ranks.forward, model, _score, model, shared)
    model.train(mode=False)
    try:
        with ranks.inference(), by_document(model):
            # Window by window: first fit over all rows at once would take quadratic time.
            for start in range(0, len(examples), WINDOW_ROWS):
                window = examples[start : start + WINDOW_ROWS]
                packed = pack(window, max_rows=len(window), max_tokens=max_tokens, packing=True, sharing=shared)
                bins = ranks.part(packed, _tokens)
                for done, documents in enumerate(bins, start=1):
                    total += sum(in_memory(documents, measure, divisible=not ranks.lockstep), Score())
                    on_fraction((start + len(window) * done / len(bins)) / len(examples))
    finally:
        model.train(was_training)
    return sum(ranks.parts(total), Score())


def _tokens(documents: Sequence[Example]) -> int:
    return sum(map(len, documents))


def _score(model: PreTrainedModel, shared: Sharing | None, documents: Sequence[Example]) -> Score:
    batch = collate(documents, shared).to(model.device)
    losses, hits = target_scores(model, batch)
    # Documents whose target was cut away count for nothing.
    document = batch.owners
    nats = torch.zeros(len(batch.lengths), dtype=torch.float64, device=losses.device)
    nats = nats.index_add_(0, document, losses.double()).cpu()
    tokens = torch.bincount(document, minlength=len(batch.lengths)).double().cpu()
    correct = torch.bincount(document[hits], minlength=len(batch.lengths)).double().cpu()
    return Score(
        nats=float(nats.sum()),
        correct=int(correct.sum()),
        tokens=len(batch.labels),
        rows=int((tokens > 0).sum()),
        nats_squared=float(nats.square().sum()),
        tokens_squared=float(tokens.square().sum()),
        nats_by_tokens=float((nats * tokens).sum()),
        correct_squared=float(correct.square().sum()),
        correct_by_tokens=float((correct * tokens).sum()),
    )


def in_memory(
    items: Sequence[Item], measure: Callable[[Sequence[Item]], Result], *, divisible: bool = True
) -> list[Result]:
    """Measure all items together or, where memory runs out, in smaller and smaller parts; results in order.

    What is not `divisible` ends with the error: ranks in lockstep could not follow.
    """
    try:
        return [measure(items)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or not divisible:
            raise
        if len(items) == 1:
            raise MemoryExhaustedError(
                "OUT_OF_MEMORY",
                "The device's memory does not hold the evaluation of one row.",
                field="training.sequence_length",
                remedy="Lower sequence_length or evaluation.max_new_tokens.",
            ) from error
    free_cache(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    middle = len(items) // 2
    return in_memory(items[:middle], measure) + in_memory(items[middle:], measure)


def perplexity(mean_loss: float) -> float | None:
    """Return exp(loss); None where that is not finite."""
    return math.exp(mean_loss) if math.isfinite(mean_loss) and mean_loss < 700 else None


def prompt_tokens(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a question: all turns but the last, rendered as in training."""
    template = ChatTemplate(tokenizer)
    if template.exists:
        asked = for_template(row, template)
        text = Conversation(asked, template).text(len(asked.messages) - 1, prompt=True)
    else:
        text = "\n\n".join(message.content for message in row.messages[:-1])
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = leading_bos(tokenizer)
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    on_fraction: Callable[[float], None],
    ranks: Alone | None = None,
) -> list[str]:
    """Generate the greedy answer to each row's question, up to an end token or `max_new_tokens`; in the rows' order.

    `on_fraction` is called with 0..1 after each token of each batch and may raise to stop. Of several ranks each
    answers a part of the questions, and all get all answers.
    """
    was_training, ranks = model.training, ranks or Alone()
    model.train(mode=False)
    config = _generation_config(model, tokenizer, max_new_tokens)
    prompts = [prompt_tokens(row, tokenizer) for row in rows]
    # Questions of like length share a batch, so that little is padded.
    by_length = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    whole = [by_length[start : start + BATCH_QUESTIONS] for start in range(0, len(by_length), BATCH_QUESTIONS)]
    batches = ranks.part(whole, lambda batch: sum(len(prompts[i]) for i in batch))
    found: dict[int, str] = {}
    try:
        with ranks.inference(), as_loaded(model), _contiguous_head(model), quiet_peft():
            for done, chosen in enumerate(batches):
                span = (done / len(batches), (done + 1) / len(batches))
                progress = _Progress(span, max_new_tokens, on_fraction)
                answer = partial(_answer, model=model, tokenizer=tokenizer, config=config, progress=progress)
                answer = partial(ranks.forward, model, answer)
                parts = in_memory([prompts[i] for i in chosen], answer, divisible=not ranks.lockstep)
                found |= dict(zip(chosen, chain.from_iterable(parts), strict=True))
    finally:
        model.train(was_training)
    on_fraction(1.0)
    found = {i: text for part in ranks.parts(found) for i, text in part.items()}
    return [found[i] for i in range(len(rows))]


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> GenerationConfig:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        use_cache=True,
    )


@contextmanager
def _contiguous_head(model: PreTrainedModel) -> Iterator[None]:
    """Make the states contiguous that the output head gets.

    After the prompt transformers passes a slice, and torch multiplies a non-contiguous batch by a frozen matrix through
    a copy of the matrix per row: 40 questions cost 2.2 GB and 8 s of a CPU with SmolLM2's 49,152 x 576 head.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    hook = head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


class _Progress(StoppingCriteria):
    """Reports progress after each generated token; never ends the generation, but passes on what the report raises."""

    def __init__(self, span: tuple[float, float], tokens: int, on_fraction: Callable[[float], None]) -> None:
        """`span` is the batch's part of the whole; `tokens` is the most that are generated."""
        self._span, self._tokens, self._on_fraction = span, tokens, on_fraction
        self._calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # noqa: ARG002 - transformers' signature
        self._calls += 1
        begin, end = self._span
        self._on_fraction(begin + (end - begin) * min(1.0, self._calls / self._tokens))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _answer(
    prompts: Sequence[list[int]],
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    progress: _Progress,
) -> list[str]:
    width = max(map(len, prompts))
    pad = int(config.pad_token_id)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if (states := prefix.states(model)) is not None:
        model, inputs = prefix.generation_inputs(model, states, ids=ids, mask=mask)
    generate: Any = model.generate
    output = generate(**inputs, generation_config=config, stopping_criteria=[progress])
    width = inputs["input_ids"].shape[1]
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def normalize(answer: str) -> str:
    """Return an answer without surrounding space and trailing .!?,;:, case folded, white space as single spaces."""
    return " ".join(answer.split()).rstrip(".!?,;: ").casefold()


def matches(answer: str, expected: str) -> bool:
    """Return whether an answer is the expected one, both normalized."""
    return normalize(answer) == normalize(expected)
