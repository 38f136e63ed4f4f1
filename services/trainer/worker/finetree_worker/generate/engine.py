# SPDX-License-Identifier: Apache-2.0
"""Decoding of many answers together: one forward pass gives each of them its next token.

A step is at most two passes. The first reads a part of the prompts that wait, for all targets of a request and for all
requests with prompts of one length together; the second adds a token to every answer whose prompt has been read. Long
prompts are read in parts, so that other answers go on meanwhile and a cancel is soon seen. An answer that ends leaves
its slot at once.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

import torch
from finetree_api.trainer.v1 import serving_pb2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.device_memory import GIB, free_cache, free_memory_bytes, is_out_of_memory
from finetree_worker.errors import MemoryExhaustedError, PlanError, TaskError
from finetree_worker.generate import sampling
from finetree_worker.generate.adapters import BASE, Adapters
from finetree_worker.generate.kv_cache import KeyValueCache, Window, check_attention, forward, untouched_logits
from finetree_worker.generate.prompt import Prompts
from finetree_worker.generate.sampling import Sampling
from finetree_worker.generate.text import Detokenizer, StopStrings
from finetree_worker.models.packed import pack

PROMPT_TOKENS = 512
"""Most tokens of prompts in one pass, those of all targets together: what a cancel waits for at most."""
LONGEST_CONTEXT = 8192
"""Longest prompt and answer where none is stated, as far as the model has positions for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an engine: answers that are decoded together, and tokens of a prompt and its answer.

    `context` 0: the model's positions, LONGEST_CONTEXT at most.
    """

    parallel: int = 8
    context: int = 0


@dataclass(slots=True, eq=False)
class _Generation:
    """A request while it is answered."""

    id: int
    received: float
    left: int
    first: float = 0.0
    last: float = 0.0
    new_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Answer:
    """One target's answer while it is decoded."""

    generation: _Generation
    index: int
    target: str
    prefix: int
    prompt: Sequence[int]
    most: int
    sampling: Sampling
    text: Detokenizer
    stops: StopStrings
    read: int = 0
    """Tokens of the prompt that are in the cache."""
    tokens: list[int] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0

    @property
    def columns(self) -> int:
        """Columns of the cache that it will have at most."""
        return self.prefix + len(self.prompt) + self.most

    @property
    def held(self) -> int:
        """Columns of the cache that it has: all but that of its newest token, which is yet to be run."""
        return self.prefix + self.read + max(0, len(self.tokens) - 1)

    def reads_with(self, other: "_Answer") -> bool:
        """Return whether both prompts have one length."""
        return len(self.prompt) == len(other.prompt)

    def add(self, token: int, now: float) -> None:
        """Take its next token, at a monotonic time."""
        self.tokens.append(token)
        self.first, self.last = self.first or now, now
        generation = self.generation
        generation.first, generation.last = generation.first or now, now
        generation.new_tokens += 1


class Engine:
    """Answers requests with one loaded base and its targets. Not thread-safe: `step` and the rest take turns."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Adapters,
        *,
        limits: Limits | None = None,
        frozen: bool = True,
    ) -> None:
        """Take a model over; `frozen` says that nobody will change its weights, which are then packed where it helps.

        Raises ModelError MODEL_ARCHITECTURE_UNSUPPORTED for a model that cannot be decoded like this.
        """
        self.model, self._tokenizer, self.adapters = model, tokenizer, adapters
        model.train(mode=False)
        whole = untouched_logits(model)
        if frozen:
            pack(model)
        self._prompts = Prompts(tokenizer, model)
        self._limits = limits or Limits()
        config = model.config.get_text_config()
        positions = int(getattr(config, "max_position_embeddings", 0) or LONGEST_CONTEXT)
        self.context = min(positions, self._limits.context or LONGEST_CONTEXT)
        # A table of learned positions ends, rotary ones go on behind a prefix.
        self._last_position = positions if getattr(config, "rope_parameters", None) is None else None
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        # Of several prompts the head gets a slice, and torch would copy its matrix for each row of it.
        head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
        self._bytes_per_token = check_attention(model, whole)
        self._cache = KeyValueCache(int(config.num_hidden_layers))
        self._waiting: deque[_Answer] = deque()
        # In the order of their slots: those that decode, then those whose prompt is being read.
        self._answers: list[_Answer] = []
        self._decoding = 0
        self._said: dict[int, serving_pb2.GenerateResponse] = {}
        self._failed: dict[int, TaskError] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do or say something."""
        return bool(self._waiting or self._answers or self._said or self._failed)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that are held for answers."""
        return self._cache.held_bytes

    def start(self, number: int, request: serving_pb2.GenerateRequest, *, received: float | None = None) -> None:
        """Take a request under a number of the caller's; `received` is its monotonic time.

        Raises PlanError: TARGET_NOT_LOADED, PROMPT_TOO_LONG, INVALID_REQUEST, NO_CHAT_TEMPLATE, TEMPLATE_REFUSED_ROW.
        """
        targets = [name or BASE for name in request.targets] or [BASE, *self.adapters.names]
        for name in targets:
            if name not in self.adapters:
                raise not_loaded(name, self.adapters.names)
        prompt = self._prompts.tokens(request)
        chosen = Sampling.from_message(request.sampling)
        generation = _Generation(number, time.monotonic() if received is None else received, len(targets))
        answers = []
        for index, name in enumerate(targets):
            prefix = 0 if name == BASE else self.adapters[name].prefix_tokens
            room = self._room(prefix)
            if len(prompt) >= room:
                raise _too_long(len(prompt), room)
            text, stops = Detokenizer(self._tokenizer), StopStrings(chosen.stop)
            most = min(chosen.max_new_tokens, room - len(prompt))
            answers.append(_Answer(generation, index, name, prefix, prompt, most, chosen, text, stops))
        self._waiting.extend(answers)

    def cancel(self, number: int) -> None:
        """End a generation and free what it holds; one that is over is ignored."""
        self._end(lambda answer: answer.generation.id == number)

    def cancel_target(self, name: str) -> None:
        """End all that a target is answering."""
        self._end(lambda answer: answer.target == name)

    def forget(self) -> None:
        """Drop everything without a word: nobody listens."""
        self._waiting.clear()
        self._answers.clear()
        self._decoding = 0
        self._said.clear()
        self._failed.clear()
        self._cache.clear()

    def step(self) -> list[tuple[int, serving_pb2.GenerateResponse | TaskError]]:
        """Go on by a token for each answer; return what is to be said, by the numbers of the requests."""
        with torch.inference_mode():
            if len(self._answers) == self._decoding:
                self._admit()
            if len(self._answers) > self._decoding:
                self._attempt(self._read_prompts, self._answers[self._decoding :])
            if self._decoding:
                self._attempt(self._decode, self._answers[: self._decoding])
        if not self._answers:
            self._cache.clear()
        said: list[tuple[int, serving_pb2.GenerateResponse | TaskError]] = [*self._said.items(), *self._failed.items()]
        self._said, self._failed = {}, {}
        return said

    def logits(self, target: str, prompt: Sequence[int]) -> torch.Tensor:
        """Return what a target predicts behind a prompt, (vocabulary,), apart from all answers."""
        prefix = 0 if target == BASE else self.adapters[target].prefix_tokens
        cache = KeyValueCache(len(self._cache))
        cache.reserve(1, prefix + len(prompt))
        if prefix:
            cache.put_prefix(0, self.adapters[target].prefix)
        ids = torch.tensor([list(prompt)], device=self.model.device)
        with torch.inference_mode(), self.adapters.routed([target]):
            return forward(self.model, cache, ids, _window(0, (prefix,), len(prompt), self.model.device))[0]

    def _room(self, prefix: int) -> int:
        return self.context if self._last_position is None else min(self.context, self._last_position - prefix)

    def _admit(self) -> None:
        """Give slots to the answers that wait, as many as are free and memory holds, whose prompts are of one length.

        Those are read together, also of several requests, and begin in the same column afterwards: nothing has to be
        masked. They come in their order: one of another length is not overtaken.
        """
        while self._waiting:
            first, free = self._waiting[0], max(0, self._limits.parallel - len(self._answers))
            chosen = list(islice(takewhile(first.reads_with, self._waiting), free))
            if not chosen:
                return
            available = free_memory_bytes(self.model.device)
            while available and self._bytes_for(chosen) > available and chosen[-1].generation is not first.generation:
                chosen.pop()
            needed = self._bytes_for(chosen)
            if available and needed > available:
                if self._answers:
                    return  # it waits for memory as it would for a slot
                self._fail(first.generation, _no_memory(needed, available))
                continue
            self._cache.reserve(len(self._answers) + len(chosen), max(answer.columns for answer in chosen))
            for answer in chosen:
                self._waiting.remove(answer)
                self._answers.append(answer)
                if answer.prefix:
                    self._cache.put_prefix(len(self._answers) - 1, self.adapters[answer.target].prefix)
            return

    def _bytes_for(self, more: Sequence[_Answer]) -> int:
        columns = max(answer.columns for answer in more)
        return self._cache.growth(len(self._answers) + len(more), columns) * self._bytes_per_token

    def _attempt(self, work: Callable[[], None], answers: Sequence[_Answer]) -> None:
        """Run a pass; where it fails, the newest request of it fails, and the others go on."""
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            newest = max((answer.generation for answer in answers), key=lambda generation: generation.received)
            if is_out_of_memory(error):
                free_cache(self.model.device)
                self._fail(newest, _no_memory(0, free_memory_bytes(self.model.device)))
            else:
                self._fail(newest, _computing_failed(error))

    def _read_prompts(self) -> None:
        """Read the next part of the prompts that were given slots together, which are of one length."""
        answers = self._answers[self._decoding :]
        begin = answers[0].read
        end = min(len(answers[0].prompt), begin + max(1, PROMPT_TOKENS // len(answers)))
        ids = torch.tensor([answer.prompt[begin:end] for answer in answers], device=self.model.device)
        starts = tuple(answer.prefix + begin for answer in answers)
        window = _window(self._decoding, starts, end - begin, self.model.device)
        with self.adapters.routed([answer.target for answer in answers]):
            logits = forward(self.model, self._cache, ids, window)
        for answer in answers:
            answer.read = end
        if end == len(answers[0].prompt):
            self._decoding = len(self._answers)
            self._accept(answers, logits)

    def _decode(self) -> None:
        answers = self._answers[: self._decoding]
        ids = torch.tensor([[answer.tokens[-1]] for answer in answers], device=self.model.device)
        window = _window(0, tuple(answer.held for answer in answers), 1, self.model.device)
        with self.adapters.routed([answer.target for answer in answers]):
            logits = forward(self.model, self._cache, ids, window)
        self._accept(answers, logits)

    def _accept(self, answers: Sequence[_Answer], logits: torch.Tensor) -> None:
        """Choose each answer's next token and say what it completes."""
        now = time.monotonic()
        # Not `max`, which takes four times as long for the value besides. Whatever is no number counts as the largest.
        found = logits.argmax(dim=-1)
        best, tokens = logits.gather(1, found[:, None])[:, 0].tolist(), found.tolist()
        failed: list[tuple[_Generation, TaskError]] = []
        for row, answer in enumerate(answers):
            try:
                if answer.sampling.temperature:
                    tokens[row] = sampling.choose(logits[row], answer.sampling, len(answer.tokens))
                elif not math.isfinite(best[row]):
                    raise sampling.not_finite()
            except TaskError as error:
                failed.append((answer.generation, error))
            answer.add(tokens[row], now)
        # Only when all have their tokens: one that ends has another moved into its place, with all that it holds.
        for generation, why in failed:
            self._fail(generation, why)
        for answer in answers:
            if answer in self._answers:
                self._show(answer)

    def _show(self, answer: _Answer) -> None:
        """Say what an answer's newest token completes, and end it where that is its last one."""
        token = answer.tokens[-1]
        if token in self._prompts.end_tokens:
            self._finish(answer, serving_pb2.FINISH_REASON_STOP)
            return
        text = answer.stops.add(answer.text.add(token))
        if text:
            self._say(answer.generation).pieces.add(target_index=answer.index, text=text)
        if answer.stops.found or len(answer.tokens) >= answer.most:
            self._finish(answer, serving_pb2.FINISH_REASON_MAX_NEW_TOKENS)

    def _finish(self, answer: _Answer, reason: serving_pb2.FinishReason.ValueType) -> None:
        """Say the rest of an answer and how it ended, and give its slot away."""
        rest = "" if answer.stops.found else answer.stops.add(answer.text.finish())
        rest += answer.stops.finish()
        piece = self._say(answer.generation).pieces.add(target_index=answer.index, text=rest)
        piece.finish.CopyFrom(
            serving_pb2.Finish(
                reason=serving_pb2.FINISH_REASON_STOP_STRING if answer.stops.found else reason,
                prompt_tokens=len(answer.prompt),
                new_tokens=len(answer.tokens),
                tokens_per_second=_rate(len(answer.tokens) - 1, answer.last - answer.first),
            )
        )
        self._leave(answer)
        generation = answer.generation
        generation.left -= 1
        if generation.left == 0:
            self._say(generation).usage.CopyFrom(_usage(generation))

    def _leave(self, answer: _Answer, *, failed: bool = False) -> None:
        """Give an answer's slot to the last one that decodes, and its slot to the last one whose prompt is read."""
        if answer not in self._answers:
            self._waiting.remove(answer)
            return
        slot = self._answers.index(answer)
        if failed:
            self._cache.wipe(slot)
        if slot < self._decoding:
            self._decoding -= 1
            self._move(self._decoding, slot)
            slot = self._decoding
        self._move(len(self._answers) - 1, slot)
        self._answers.pop()

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._cache.move(source, target, self._answers[source].held)
            self._answers[target] = self._answers[source]

    def _end(self, chosen: Callable[[_Answer], bool]) -> None:
        for answer in [*self._answers, *self._waiting]:
            if chosen(answer):
                self._finish(answer, serving_pb2.FINISH_REASON_CANCELLED)

    def _fail(self, generation: _Generation, error: TaskError) -> None:
        for answer in [*self._answers, *self._waiting]:
            if answer.generation is generation:
                self._leave(answer, failed=True)
        self._said.pop(generation.id, None)
        self._failed[generation.id] = error

    def _say(self, generation: _Generation) -> serving_pb2.GenerateResponse:
        return self._said.setdefault(generation.id, serving_pb2.GenerateResponse())


def _window(first: int, starts: tuple[int, ...], tokens: int, device: torch.device) -> Window:
    positions = torch.tensor(starts, device=device)[:, None]
    if tokens > 1:
        positions = positions + torch.arange(tokens, device=device)
    return Window(first, starts, tokens, positions)


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0


def _usage(generation: _Generation) -> serving_pb2.GenerationUsage:
    if not generation.new_tokens:
        return serving_pb2.GenerationUsage()
    return serving_pb2.GenerationUsage(
        first_token_seconds=generation.first - generation.received,
        total_seconds=generation.last - generation.received,
        new_tokens=generation.new_tokens,
        tokens_per_second=_rate(generation.new_tokens, generation.last - generation.first),
    )


def not_loaded(name: str, loaded: Sequence[str]) -> PlanError:
    """Return the error for a target that is not there."""
    names = ", ".join((BASE, *loaded))
    return PlanError(
        "TARGET_NOT_LOADED",
        f"No target named {name[:63]!r} is loaded.",
        field="targets",
        remedy=f"Load it, or take one of: {names}.",
        metadata={"targets": names},
    )


def _too_long(tokens: int, limit: int) -> PlanError:
    return PlanError(
        "PROMPT_TOO_LONG",
        f"The prompt has {tokens} tokens, and the context {limit}, of which at least one is the answer's.",
        field="prompt",
        remedy=f"Shorten it to less than {limit} tokens.",
        metadata={"tokens": str(tokens), "limit": str(limit)},
    )


def _no_memory(needed: int, free: int) -> MemoryExhaustedError:
    wanted = f"the answers need {needed / GIB:.2f} GiB, and" if needed else "memory ran out on the way, and now"
    return MemoryExhaustedError(
        "OUT_OF_MEMORY_PREFLIGHT",
        f"The device's memory does not hold the keys and values: {wanted} {free / GIB:.2f} GiB are free.",
        field="sampling.max_new_tokens",
        remedy="Ask with a shorter prompt, lower max_new_tokens, or fewer targets.",
    )


def _computing_failed(error: BaseException) -> TaskError:
    return TaskError(
        "GENERATION_FAILED",
        f"The answer could not be computed ({type(error).__name__}).",
        remedy="The job's log has the details (ReadJobLog, `finetree jobs logs`).",
    )
