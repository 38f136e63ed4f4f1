# SPDX-License-Identifier: Apache-2.0
"""Evaluation on held-out rows: loss and accuracy per learned token, and exact answers to questions."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from finetree_worker.data.packing import collate, pack
from finetree_worker.device_memory import free_cache, is_out_of_memory
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.methods import prefix
from finetree_worker.methods.peft_format import quiet_peft
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.render import for_template
from finetree_worker.tokenize.rows import Row
from finetree_worker.tokenize.tokenizer import leading_bos
from finetree_worker.training.attention import as_loaded, by_document
from finetree_worker.training.loss import target_score

Item = TypeVar("Item")
Result = TypeVar("Result")
WINDOW_ROWS = 1024
"""Number of held-out rows that are packed together."""
BATCH_QUESTIONS = 40
"""Number of questions that are answered in one batch; its memory is that of their caches."""


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over rows: of the cross entropies (nats) of their learned tokens, those predicted, all of them.

    `products` are the sums of the products of two of these three (nats, correct, tokens), float64 (3, 3): what their
    spread over the rows is computed from.
    """

    nats: float = 0.0
    correct: int = 0
    tokens: int = 0
    rows: int = 0
    products: Tensor = field(default_factory=lambda: torch.zeros(3, 3, dtype=torch.float64))

    @classmethod
    def of_documents(cls, nats: Tensor, correct: Tensor, tokens: Tensor) -> "Score":
        """Sum up documents: float64 (documents,) each."""
        each = torch.stack((nats, correct, tokens))
        total = each.sum(1).tolist()
        return cls(total[0], int(total[1]), int(total[2]), len(tokens), each @ each.T)

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.nats + other.nats,
            self.correct + other.correct,
            self.tokens + other.tokens,
            self.rows + other.rows,
            self.products + other.products,
        )

    @property
    def loss(self) -> float:
        """Mean cross entropy (nats) per learned token; may be infinite or not a number."""
        return self.nats / max(1, self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of the learned tokens that are the model's most probable ones."""
        return self.correct / max(1, self.tokens)

    @property
    def loss_standard_error(self) -> float | None:
        """Standard error of the loss (nats); None of fewer than two rows, or where it is not finite."""
        return self._standard_error(0, self.loss)

    @property
    def accuracy_standard_error(self) -> float | None:
        """Standard error of the accuracy; None of fewer than two rows."""
        return self._standard_error(1, self.accuracy)

    def _standard_error(self, of: int, ratio: float) -> float | None:
        """Standard error of a ratio of two sums over rows: Cochran, Sampling Techniques (1977), section 6.4.

        Rows are what is drawn at random: tokens of one row resemble each other, and counting them as independent would
        promise too much.
        """
        if self.rows < 2 or not self.tokens:
            return None
        products = self.products
        squares = float(products[of, of] - 2 * ratio * products[of, 2] + ratio * ratio * products[2, 2])
        if not math.isfinite(squares):
            return None
        return math.sqrt(max(0.0, squares) * self.rows / (self.rows - 1)) / self.tokens


def score(
    model: PreTrainedModel, examples: Sequence[Example], *, max_tokens: int, on_fraction: Callable[[float], None]
) -> Score:
    """Measure loss and token accuracy, in forward passes of `max_tokens`.

    `on_fraction` is called with 0..1 and may raise to stop. The model's mode is restored. Raises MemoryExhaustedError
    when not even one row fits.
    """
    total, was_training = Score(), model.training
    model.train(mode=False)
    try:
        with torch.inference_mode(), by_document(model):
            # Window by window: first fit over all rows at once would take quadratic time.
            for start in range(0, len(examples), WINDOW_ROWS):
                window = examples[start : start + WINDOW_ROWS]
                bins = pack(window, max_rows=len(window), max_tokens=max_tokens, packing=True)
                for done, documents in enumerate(bins, start=1):
                    total += sum(_in_memory(documents, partial(_score, model)), Score())
                    on_fraction((start + len(window) * done / len(bins)) / len(examples))
    finally:
        model.train(was_training)
    return total


def _score(model: PreTrainedModel, documents: Sequence[Example]) -> Score:
    batch = collate(documents).to(model.device)
    return Score.of_documents(*target_score(model, batch))


def _in_memory(items: Sequence[Item], measure: Callable[[Sequence[Item]], Result]) -> list[Result]:
    """Measure all items together or, where memory runs out, in smaller and smaller parts; results in order."""
    try:
        return [measure(items)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
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
    return _in_memory(items[:middle], measure) + _in_memory(items[middle:], measure)


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
) -> list[str]:
    """Generate the greedy answer to each row's question, up to an end token or `max_new_tokens`; in the rows' order.

    `on_fraction` is called with 0..1 after each token of each batch and may raise to stop.
    """
    was_training = model.training
    model.train(mode=False)
    config = _generation_config(model, tokenizer, max_new_tokens)
    prompts = [prompt_tokens(row, tokenizer) for row in rows]
    # Questions of like length share a batch, so that little is padded.
    by_length = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    found: dict[int, str] = {}
    try:
        with torch.inference_mode(), as_loaded(model), _contiguous_head(model), quiet_peft():
            for start in range(0, len(by_length), BATCH_QUESTIONS):
                chosen = by_length[start : start + BATCH_QUESTIONS]
                span = (start / len(rows), (start + len(chosen)) / len(rows))
                progress = _Progress(span, max_new_tokens, on_fraction)
                answer = partial(_answer, model=model, tokenizer=tokenizer, config=config, progress=progress)
                parts = _in_memory([prompts[i] for i in chosen], answer)
                found |= dict(zip(chosen, chain.from_iterable(parts), strict=True))
    finally:
        model.train(was_training)
    on_fraction(1.0)
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
