# SPDX-License-Identifier: Apache-2.0
"""Tokenizers in GGUF files: written as llama.cpp reads them, and made again from a file by llama.cpp's rules.

Two kinds: byte-pair encoding of bytes (GPT-2's, "gpt2" in files), and SentencePiece's with a score for each piece
("llama"), which tokenizer.json holds as merges with byte fallback.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gguf
from gguf.constants import Keys
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finetree_worker.errors import PlanError
from finetree_worker.export.gguf.pre_tokenizers import SPLITS, name_of
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.tokenizer import leading_bos

REASON = "EXPORT_TOKENIZER_UNSUPPORTED"
BYTES, PIECES = "gpt2", "llama"
"""`tokenizer.ggml.model` of the two kinds."""
ENDS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>"),
        *("_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
    }
)
"""Tokens at which llama.cpp ends an answer whatever a file says of them, of the models that are written here."""
_SPACE = "\u2581"  # how SentencePiece writes a space
_SCORE_OF_ADDED = -1000.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as a file holds it; `tokens`, `types` and `scores` have one entry for each row of the embeddings.

    `special` are token ids by their name in the file ("bos", "eos", "eot", "padding", "unknown").
    """

    kind: str
    tokens: list[str]
    types: list[int]
    special: Mapping[str, int]
    add_bos: bool
    chat_template: str = ""
    split: str = ""
    """Of bytes: name of the split before encoding."""
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    """Of pieces: the piece with the highest score is joined first."""
    add_space_prefix: bool = False

    @property
    def ends(self) -> set[int]:
        """Tokens at which llama.cpp ends an answer."""
        stated = {self.special[name] for name in ("eos", "eot") if name in self.special}
        return stated | {i for i, token in enumerate(self.tokens) if token in ENDS}

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Write the tokenizer's keys."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.split or "default")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == BYTES:
            writer.add_token_merges(list(self.merges))
        else:
            writer.add_token_scores(list(self.scores))
            writer.add_add_space_prefix(self.add_space_prefix)
        for name, token in self.special.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_bool(Keys.Tokenizer.ADD_EOS, False)  # noqa: FBT003 - the package's signature
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> Vocabulary:
    """Return a tokenizer as a file holds it, padded to the model's embeddings.

    Raises PlanError EXPORT_TOKENIZER_UNSUPPORTED for one that llama.cpp has no rule for.
    """
    inner = json.loads(_backend(tokenizer).to_str())
    model = inner["model"]
    if model["type"] != "BPE" or model.get("dropout"):
        raise _unsupported(f"is of the kind {model['type']}, and files hold byte-pair encoding")
    tokens, types = _tokens(tokenizer, inner, rows=int(config.vocab_size))
    merges = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
    template = tokenizer.chat_template
    common: dict[str, Any] = {
        "tokens": tokens,
        "types": types,
        "special": _special(tokenizer),
        "add_bos": leading_bos(tokenizer) is not None,
        "chat_template": template if isinstance(template, str) else (template or {}).get("default", ""),
    }
    if model.get("byte_fallback"):
        scores = _scores(tokens, types, merges)
        return Vocabulary(PIECES, scores=scores, add_space_prefix=_adds_space(inner), **common)
    if (inner["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise _unsupported(f"changes texts before it splits them ({inner['normalizer']['type']})")
    split = name_of(tokenizer, _steps(inner["pre_tokenizer"]), ignore_merges=bool(model.get("ignore_merges")))
    if split is None:
        raise _unsupported("splits texts by a rule that llama.cpp has no name for here")
    joined = tuple(" ".join(part.replace(" ", "\u0120") for part in pair) for pair in merges)
    return Vocabulary(BYTES, split=split, merges=joined, **common)


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _unsupported("has no tokenizer.json")
    return tokenizer.backend_tokenizer


def _unsupported(text: str) -> PlanError:
    remedy = "Export a transformers folder, which keeps tokenizer.json as it is."
    return PlanError(REASON, f"The tokenizer cannot be written as GGUF: it {text}.", field="export", remedy=remedy)


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    return [pre_tokenizer]


def _tokens(tokenizer: PreTrainedTokenizerBase, inner: dict[str, Any], *, rows: int) -> tuple[list[str], list[int]]:
    """Return the tokens by id, and what each is; ids that the tokenizer does not use get a name that no text has."""
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [int(gguf.TokenType.UNUSED)] * rows
    pieces, added = bool(inner["model"].get("byte_fallback")), {each["id"]: each for each in inner["added_tokens"]}
    unknown = inner["model"].get("unk_token")
    for token, i in tokenizer.get_vocab().items():
        kind = gguf.TokenType.NORMAL
        if i in added:
            # Marked or not, such a token is never meant as text: servers hide it and stop at some of them.
            special = added[i]["special"] or (token.startswith("<|") and token.endswith("|>"))
            kind = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
            token = token if special else token.replace(_SPACE, " ")  # noqa: PLW2901 - as texts have it
        elif pieces and len(token) == 6 and token.startswith("<0x"):
            kind = gguf.TokenType.BYTE
        if pieces and unknown is not None and tokenizer.convert_tokens_to_ids(unknown) == i:
            kind = gguf.TokenType.UNKNOWN
        tokens[i], types[i] = token, int(kind)
    return tokens, types


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the special tokens; of a template whose turns end in another token than sequences, that one too.

    A server that is not told of it goes on after the answer for ever.
    """
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {ours: getattr(tokenizer, f"{theirs}_token_id", None) for theirs, ours in named.items()}
    marks = ChatTemplate(tokenizer).answer_marks if tokenizer.chat_template else None
    if marks is not None:
        ends: list[int] = tokenizer.encode(marks.end, add_special_tokens=False)
        if ends and ends[0] in tokenizer.added_tokens_decoder and ends[0] != tokenizer.eos_token_id:
            found["eot"] = ends[0]
    return {name: int(token) for name, token in found.items() if token is not None}


def _adds_space(inner: dict[str, Any]) -> bool:
    """Return whether a space is put before a text; raises for settings that files cannot say."""
    adds = False
    for step in _flat(inner["normalizer"]):
        match step:
            case {"type": "Prepend", "prepend": prefix} if prefix == _SPACE:
                adds = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": content} if content == _SPACE:
                pass
            case _:
                raise _unsupported(f"changes texts before it splits them ({step['type']})")
    for step in _steps(inner["pre_tokenizer"]):
        match step:
            case {"type": "Metaspace", "prepend_scheme": scheme, "split": False}:
                adds = adds or scheme != "never"
            case {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}:
                pass  # Gemma's: no space is left to split at
            case _:
                raise _unsupported(f"splits texts before it joins pieces ({step['type']})")
    return adds


def _flat(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    return list(normalizer["normalizers"]) if normalizer["type"] == "Sequence" else [normalizer]


def _scores(tokens: list[str], types: list[int], merges: list[list[str]]) -> tuple[float, ...]:
    """Return a score for each token: the earlier a piece is joined, the higher.

    tokenizer.json was made from scores by sorting all joins by them, so this order is the scores' own.
    """
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        rank.setdefault(left + right, i)
    normal = int(gguf.TokenType.NORMAL)
    return tuple(
        (-float(rank.get(token, 0)) if kind == normal else _SCORE_OF_ADDED if kind != int(gguf.TokenType.BYTE) else 0.0)
        for token, kind in zip(tokens, types, strict=True)
    )


def tokenizer_of(held: Vocabulary) -> PreTrainedTokenizerFast:
    """Make the tokenizer that llama.cpp makes of a file: with its rules, not with those that the file came from."""
    inner = _bytes_tokenizer(held) if held.kind == BYTES else _pieces_tokenizer(held)
    added = [
        AddedToken(token, special=kind == int(gguf.TokenType.CONTROL), normalized=False)
        for token, kind in zip(held.tokens, held.types, strict=True)
        if kind in (int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED))
    ]
    inner.add_tokens(added)
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    special = {f"{named[name]}_token": held.tokens[i] for name, i in held.special.items() if name in named}
    if held.add_bos and "bos" in held.special:
        bos = held.tokens[held.special["bos"]]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, held.special["bos"])]
        )
    build: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = build(tokenizer_object=inner, **special)
    made.chat_template = held.chat_template or None
    return made


def _used(held: Vocabulary) -> dict[str, int]:
    """Return the ids of tokens; those that only fill up the embeddings have no text."""
    unused = int(gguf.TokenType.UNUSED)
    return {token: i for i, (token, kind) in enumerate(zip(held.tokens, held.types, strict=True)) if kind != unused}


def _bytes_tokenizer(held: Vocabulary) -> Any:
    split = SPLITS[held.split]
    vocabulary = _used(held)
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in held.merges)]
    inner = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split.ignore_merges))
    inner.pre_tokenizer = split.pre_tokenizer()
    inner.decoder = decoders.ByteLevel()
    return inner


def _pieces_tokenizer(held: Vocabulary) -> Any:
    """Make a tokenizer that joins two pieces where they make one of the vocabulary, that of the highest score first."""
    ids = _used(held)
    joins = []
    for token, kind, score in zip(held.tokens, held.types, held.scores, strict=True):
        if kind == int(gguf.TokenType.NORMAL):
            parts = ((token[:i], token[i:]) for i in range(1, len(token)))
            joins += [(-score, ids[a], ids[b], (a, b)) for a, b in parts if a in ids and b in ids]
    merges = [pair for *_, pair in sorted(joins)]
    unknown = held.tokens[held.special["unknown"]] if "unknown" in held.special else None
    inner = Tokenizer(models.BPE(ids, merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if held.add_space_prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if held.add_space_prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return inner


def matching_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, texts: Sequence[str]
) -> Vocabulary:
    """Return a tokenizer as a file holds it, such that llama.cpp makes the same tokens of all texts.

    Of pieces two ways are tried: a space before a text, which tokenizer.json may put at the beginning alone and
    llama.cpp puts behind special tokens too, and none. Raises PlanError EXPORT_TOKENIZER_UNSUPPORTED.
    """
    held = vocabulary(tokenizer, config)
    candidates = [held]
    if held.kind == PIECES:
        candidates.append(replace(held, add_space_prefix=not held.add_space_prefix))
    differing = ""
    for candidate in candidates:
        made = tokenizer_of(candidate)
        differing = next((text for text in texts if not _same(tokenizer, made, text)), "")
        if not differing:
            return candidate
    raise _unsupported(f"makes other tokens of {differing[:40]!r} than llama.cpp does")


def _same(left: PreTrainedTokenizerBase, right: PreTrainedTokenizerBase, text: str) -> bool:
    return list(left.encode(text, add_special_tokens=False)) == list(right.encode(text, add_special_tokens=False))
