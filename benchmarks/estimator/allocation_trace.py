# SPDX-License-Identifier: Apache-2.0
"""Every allocation and release of a training step of the real classes, as requests that grow with the tokens.

A micro-batch of transformers' own model class, PEFT's adapters on it where wanted, runs forward and backward under a
fake-tensor mode as the Trainer runs it: under autocast, the outputs raised to float32 and let go before the backward
pass. Each storage is a request; its size is taken at two lengths and is a straight line in between and beyond.
"""

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from finetree_estimator.methods.base import Method
from finetree_estimator.methods.lora import Lora
from replay import Event, Trace
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from trace_memory import materialize, with_adapters

LENGTHS = (128, 256)


class _Requests(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type its dispatch modes
    """Notes every storage that is made inside it, and when it goes."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type its dispatch modes
        self.notes: list[tuple[int, int, bool]] = []
        """Number of the request, bytes, whether it is its end."""
        self._count = 0
        self._alive: dict[int, int] = dict.fromkeys(known, -1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = _key(storage)
        if key not in self._alive:
            self._alive[key] = self._count
            self.notes.append((self._count, storage.nbytes(), False))
            self._count += 1
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.notes.append((self._alive.pop(key), 0, True))


def trace(
    config: Any,
    method: Method,
    *,
    checkpointing: bool,
    compute: torch.dtype = torch.bfloat16,
    fused_loss: bool = False,
) -> Trace:
    """What a step of a model asks for. Raises ValueError where two lengths do not give the same series of requests.

    A `fused_loss` makes no logits: the sum of the last hidden states stands for it.
    """
    loss = _no_logits if fused_loss else _loss
    short, long = (
        _noted(_model(config, method, compute), loss, tokens, checkpointing=checkpointing) for tokens in LENGTHS
    )
    if [note[::2] for note in short.notes] != [note[::2] for note in long.notes]:
        raise ValueError("the lengths give other requests: there is no line through them")
    events = [_line(one, other) for one, other in zip(short.notes, long.notes, strict=True)]
    return Trace(short.weights, short.trained, tuple(events[: short.border]), tuple(events[short.border :]))


def _line(short: tuple[int, int, bool], long: tuple[int, int, bool]) -> Event:
    slope = (long[1] - short[1]) / (LENGTHS[1] - LENGTHS[0])
    return Event(short[0], round(short[1] - slope * LENGTHS[0]), slope, short[2])


class _Noted(NamedTuple):
    weights: tuple[int, ...]
    trained: tuple[int, ...]
    notes: list[tuple[int, int, bool]]
    border: int
    """Number of notes of the first micro-batch."""


def _noted(model: Any, loss: Callable[..., Any], tokens: int, *, checkpointing: bool) -> _Noted:
    """The requests of two micro-batches, the gradients of the first being there in the second."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialize(model)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        held = [*model.parameters(), *model.buffers()]
        ids = torch.zeros(1, tokens, dtype=torch.long)
        known = {_key(tensor.untyped_storage()) for tensor in (*held, ids)}
        with _quiet(), _Requests(known) as requests:
            loss(model, ids).backward()
            border = len(requests.notes)
            loss(model, ids).backward()
            notes = _in_order(requests.notes[:border]) + _in_order(requests.notes[border:])
    sizes = {_key(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in held}
    trained = tuple(part.nbytes for part in model.parameters() if part.requires_grad)
    return _Noted(tuple(sizes.values()), trained, notes, border)


def _key(storage: torch.UntypedStorage) -> int:
    """The storage's address: its Python objects come and go."""
    address: int = storage._cdata  # noqa: SLF001  # torch has no public name for it
    return address


def _in_order(notes: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """The notes with what goes at one moment in the order of its requests: sets give it in any."""
    found: list[tuple[int, int, bool]] = []
    for ends, group in itertools.groupby(notes, key=lambda note: note[2]):
        together = list(group)
        found.extend(sorted(together) if ends else together)
    return found


def _model(config: Any, method: Method, compute: torch.dtype) -> Any:
    classes: Any = transformers.AutoModelForCausalLM
    default = torch.get_default_dtype()
    with torch.device("meta"):
        torch.set_default_dtype(compute)
        try:
            model = classes.from_config(config, attn_implementation="sdpa")
        finally:
            torch.set_default_dtype(default)
        return with_adapters(model, method) if isinstance(method, Lora) else model


def _no_logits(model: Any, ids: torch.Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state.sum()


def _loss(model: Any, ids: torch.Tensor) -> Any:
    """The loss as the Trainer computes it."""
    # accelerate raises what a model gives to float32 after autocast (convert_outputs_to_fp32).
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=ids, labels=ids, use_cache=False)
    logits, loss = out.logits.float(), out.loss.float()
    del out, logits
    return loss


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection meanwhile: what a cycle holds would go at another moment each time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
