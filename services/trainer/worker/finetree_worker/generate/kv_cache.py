# SPDX-License-Identifier: Apache-2.0
"""Keys and values of several sequences of different lengths, in memory that is there before they come.

A sequence has a slot, and the column of a token is its position: a trained prefix is in the first columns, what follows
behind it. So sequences come and go without moving the others, and one mask says for all of them what a token may attend
to: the columns up to its own position. transformers' own cache copies everything for each new token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finetree_worker.errors import ModelError
from finetree_worker.generate.state_cache import LayerStates, Rows

COLUMNS = 256
"""Columns are added in multiples of it, so that memory is copied seldom."""
_WIDEST = 256
"""Head size up to which fused kernels share keys and values among query heads."""
_FAILURES = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models raise that cannot be run on tokens, or with this cache."""


@dataclass(frozen=True)
class Window:
    """Part of the cache that one forward pass writes: slots [first, first + rows), `tokens` columns from `starts` on.

    `starts` are the rows' first columns; `positions` (rows, tokens) int64 the columns of all tokens, on the device.
    """

    first: int
    starts: tuple[int, ...]
    tokens: int
    positions: Tensor

    @cached_property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.starts)

    @cached_property
    def end(self) -> int:
        """Columns that the longest of the rows has after the pass."""
        return max(self.starts) + self.tokens

    @cached_property
    def aligned(self) -> bool:
        """Whether all rows begin in the same column."""
        return min(self.starts) == max(self.starts)


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers leaves its hooks untyped
    """Keys and values of one layer, each (slots, heads, columns, head size)."""

    def __init__(self, cache: "KeyValueCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self._cache = cache
        self.held: tuple[Tensor, Tensor] | None = None
        # What the last pass wrote to, since the next one mostly writes to the same rows.
        self._slots: tuple[int, ...] = ()
        self._rows: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: `fit` makes room."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the window's states (rows, heads, tokens, head size); return all that its rows have."""
        # Few calls, and `narrow` where brackets would cost three: this runs in each layer for every token.
        cache, window = self._cache, self._cache.window
        slots = (cache.slots, cache.columns, window.first, window.rows)
        if self._rows is None or slots != self._slots:
            held = self.fit(cache.slots, cache.columns, like=(key_states, value_states))
            self._rows = held[0].narrow(0, window.first, window.rows), held[1].narrow(0, window.first, window.rows)
            self._slots = slots
        keys, values = self._rows
        if window.aligned:
            keys.narrow(2, window.starts[0], window.tokens).copy_(key_states)
            values.narrow(2, window.starts[0], window.tokens).copy_(value_states)
        elif window.tokens == 1:
            # A scatter writes all rows in one call; the index is shared by the layers of one shape.
            keys.scatter_(2, cache.scatter_index(key_states), key_states)
            values.scatter_(2, cache.scatter_index(value_states), value_states)
        else:
            for row, begin in enumerate(window.starts):
                keys[row].narrow(1, begin, window.tokens).copy_(key_states[row])
                values[row].narrow(1, begin, window.tokens).copy_(value_states[row])
        return keys.narrow(2, 0, window.end), values.narrow(2, 0, window.end)

    def fit(self, slots: int, columns: int, *, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return room for so many slots and columns of states like these; what is there is kept."""
        before = self.held or (None, None)
        self.held = held = _grown(before[0], slots, columns, like[0]), _grown(before[1], slots, columns, like[1])
        self._rows = None
        self.is_initialized = True
        return held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns the window's rows attend to, and the first of them."""
        del query_length
        return self._cache.window.end, 0

    def get_seq_length(self) -> int:
        """Return the first column that the window writes."""
        return max(self._cache.window.starts)

    def get_max_length(self) -> int:
        """Return -1: there is none."""
        return -1


def _grown(held: Tensor | None, slots: int, columns: int, like: Tensor) -> Tensor:
    if held is not None and held.shape[0] >= slots and held.shape[2] >= columns:
        return held
    # Zeros, for a column that no mask lets through is multiplied by a weight of 0, and 0 * NaN would come of it.
    more = like.new_zeros(slots, like.shape[1], columns, like.shape[3])
    if held is not None:
        more[: held.shape[0], :, : held.shape[2]] = held[:slots, :, :columns]
    return more


class KeyValueCache(Cache):
    """Cache of the sequences that are decoded together. Its memory grows with them, and is freed with the last one."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._count = layers
        self.slots = self.columns = 0
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Free the memory."""
        self.slots = self.columns = 0
        self._own = [_Layer(self) for _ in range(self._count)]
        self._states = [LayerStates() for _ in range(self._count)]
        self.layers = [*self._own]
        self._indices = {}

    def reserve(self, slots: int, columns: int) -> None:
        """Have room for so many sequences of so many tokens, prefix included; takes effect layer by layer, on use."""
        self.slots = max(self.slots, slots)
        self.columns = max(self.columns, -(-columns // COLUMNS) * COLUMNS)

    @contextmanager
    def writing(self, window: Window, model: PreTrainedModel) -> Iterator[None]:
        """Make the model's forward pass inside the block read and write this window."""
        self.window, self._indices = window, {}
        self._rows = Rows(window.first, window.rows, self.slots, begin=max(window.starts) == 0)
        name = model.config._attn_implementation  # noqa: SLF001 - transformers has a setter but no getter
        masks: Any = ALL_MASK_ATTENTION_FUNCTIONS
        masks[name] = _Mask(window, fused=name != "eager")
        attentions: Any = ALL_ATTENTION_FUNCTIONS if name == "sdpa" else {}
        attentions[name] = _attend
        try:
            yield
        finally:
            del masks[name], attentions[name]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's states into the window, as transformers' own `update` does after looking for an offload."""
        return self._own[layer_idx].update(key_states, value_states)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the last inputs of a layer's convolution for the window's rows; None where they begin."""
        return self._states[layer_idx].get("inputs", state_idx, self._rows)

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **settings: Any) -> Tensor:
        """Take a convolution's new inputs (rows, channels, tokens); return them behind those before."""
        return self._states[layer_idx].put_inputs(state_idx, self._rows, conv_states, settings["conv_kernel_size"])

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return a layer's recurrent state for the window's rows; None where they begin."""
        return self._states[layer_idx].get("recurrent", state_idx, self._rows)

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: object
    ) -> Tensor:
        """Store a layer's recurrent state for the window's rows."""
        return self._states[layer_idx].put("recurrent", state_idx, self._rows, recurrent_states)

    def is_recording_past(self, *_: object, **__: object) -> bool:
        """Return False: states are never rolled back."""
        return False

    def scatter_index(self, states: Tensor) -> Tensor:
        """Return the columns of the window's one token in each row, shaped like its states."""
        shape = tuple(states.shape)
        if shape not in self._indices:
            self._indices[shape] = self.window.positions[:, None, :, None].expand(shape)
        return self._indices[shape]

    def put_prefix(self, slot: int, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write trained keys and values, by layer (heads, tokens, head size), into a slot's first columns."""
        for layer, pair in zip(self._own, states, strict=True):
            held = layer.fit(self.slots, self.columns, like=(pair[0][None], pair[1][None]))
            for part, own in zip(held, pair, strict=True):
                part[slot, :, : own.shape[1]] = own

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a slot to another, which is to be its place."""
        with torch.inference_mode():
            for layer in self._own:
                for part in layer.held or ():
                    if source < part.shape[0]:
                        part[target, :, :tokens] = part[source, :, :tokens]
            for states in self._states:
                states.move(source, target)

    def wipe(self, slot: int) -> None:
        """Set a slot to zero: numbers that are not finite would reach whoever has it next."""
        with torch.inference_mode():
            for layer in self._own:
                for part in layer.held or ():
                    if slot < part.shape[0]:
                        part[slot].zero_()
            for states in self._states:
                states.wipe(slot)

    def growth(self, slots: int, columns: int) -> int:
        """Return the tokens that memory is needed for to reserve so much; 0 where there is room already."""
        columns = -(-columns // COLUMNS) * COLUMNS
        if slots <= self.slots and columns <= self.columns:
            return 0
        return max(self.slots, slots) * max(self.columns, columns)

    @property
    def held_bytes(self) -> int:
        """Bytes of all keys, values and states."""
        held = [part for layer in self._own for part in layer.held or ()]
        states = sum(layer.bytes for layer in self._states)
        return states + sum(part.numel() * part.element_size() for part in held)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attend with torch's fused kernel: at once for one token that sees everything, else as transformers does.

    What stands before that in transformers' function takes as long as the attention to some hundred tokens.
    """
    unusual = settings.get("position_bias") is not None or settings.get("softcap") is not None
    if unusual or attention_mask is not None or query.shape[2] > 1 or settings.get("dropout") or key.shape[3] > _WIDEST:
        usual: Any = sdpa_attention_forward
        found: tuple[Tensor, None] = usual(module, query, key, value, attention_mask, **settings)
        return found
    output = scaled_dot_product_attention(query, key, value, scale=settings.get("scaling"), enable_gqa=True)
    return output.transpose(1, 2), None


@dataclass(frozen=True, slots=True)
class _Mask:
    """Mask function for transformers: the model's own rule, such as a sliding window, at each row's own positions."""

    window: Window
    fused: bool

    def __call__(
        self, *, kv_length: int, mask_function: Any = causal_mask_function, dtype: Any = torch.float32, **_: object
    ) -> Tensor | None:
        """Return what is added to the scores (rows, 1, tokens, kv_length); for a GPU's kernels what is seen, bool.

        None where no mask is needed: one token that sees everything, or rows that begin with the first column, which
        fused kernels mask by themselves.
        """
        window = self.window
        plain = window.aligned and mask_function is causal_mask_function
        if plain and (window.tokens == 1 or (window.starts[0] == 0 and self.fused)):
            return None
        device = window.positions.device
        columns = torch.arange(kv_length, device=device)[None, None, None, :]
        row = torch.arange(window.rows, device=device)[:, None, None, None]
        head = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        seen: Tensor = mask_function(row, head, window.positions[:, None, :, None], columns)
        seen = seen.expand(window.rows, 1, window.tokens, kv_length)
        if self.fused and device.type != "cpu":
            return seen
        # The fused kernel of a CPU adds one too, and torch would make it from the other in each layer.
        zero = torch.zeros((), dtype=dtype, device=device)
        return torch.where(seen, zero, torch.finfo(dtype).min)


def untouched_logits(model: PreTrainedModel) -> Tensor:
    """Return what the model predicts behind two short texts without a cache, (2, vocabulary): see `check_attention`.

    Raises ModelError MODEL_ARCHITECTURE_UNSUPPORTED where it cannot be run on tokens alone.
    """
    untyped: Any = model
    try:
        with torch.inference_mode():
            logits: Tensor = untyped(input_ids=_texts(model), use_cache=False).logits[:, -1]
    except _FAILURES as error:
        raise _unsupported(model) from error
    return logits


def check_attention(model: PreTrainedModel, whole: Tensor) -> int:
    """Check that the model computes with this cache what it does without, `whole`; return its bytes for a token.

    Raises ModelError MODEL_ARCHITECTURE_UNSUPPORTED for a model that keeps something else than keys and values, or
    masks in a way of its own.
    """
    ids = _texts(model)
    cache = KeyValueCache(int(model.config.get_text_config().num_hidden_layers))
    try:
        with torch.inference_mode():
            cache.reserve(2, ids.shape[1])
            first = forward(model, cache, ids[:, :3], Window(0, (0, 0), 3, torch.arange(3).repeat(2, 1).to(ids)))
            last = forward(model, cache, ids[:, 3:], Window(0, (3, 3), 1, torch.full((2, 1), 3).to(ids)))
    except _FAILURES as error:
        raise _unsupported(model) from error
    scale = float(whole.float().abs().max())
    tolerance = 1e-3 if whole.dtype is torch.float32 and model.dtype is torch.float32 else 5e-2
    if first.shape != last.shape or float((last.float() - whole.float()).abs().max()) > tolerance * max(1.0, scale):
        raise _unsupported(model)
    return cache.held_bytes // (cache.slots * cache.columns)


def _texts(model: PreTrainedModel) -> Tensor:
    vocabulary = int(model.config.get_text_config().vocab_size)
    return torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]], device=model.device) % vocabulary


def forward(model: PreTrainedModel, cache: KeyValueCache, ids: Tensor, window: Window) -> Tensor:
    """Run tokens (rows, tokens) through the model; return the logits behind each row's last one, (rows, vocabulary)."""
    untyped: Any = model
    with cache.writing(window, model):
        output = untyped(input_ids=ids, position_ids=window.positions, cache=cache, use_cache=True, logits_to_keep=1)
    logits: Tensor = output.logits[:, -1]
    return logits


def _unsupported(model: PreTrainedModel) -> ModelError:
    return ModelError(
        "MODEL_ARCHITECTURE_UNSUPPORTED",
        f"Models of the type {model.config.model_type!r} cannot be served here: they keep more than keys and values.",
        field="model",
        remedy="Choose a model of another family, such as Llama, Qwen, Mistral, Gemma or SmolLM.",
    )
