# SPDX-License-Identifier: Apache-2.0
"""Texts tokenized by their pieces: the very tokens and places of the whole texts; or not by pieces at all."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from finetree_worker.tokenize.encode import Encoder
from finetree_worker.tokenize.split_points import splitter
from finetree_worker.tokenize.tokenizer import leading_bos
from usual_templates import TEMPLATES, conversation

# White space of all kinds, what the expressions treat apart, and what could be cut wrongly.
PARTS = (
    *("a", "B", "the", "don't", "'s", "'S", " 're", "é", "e\u0301", "\u0301", " \u0301", "中文", "한", "😀", "½"),
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b"),
    *("\x1c", "\x1f", "\u200b", "\ufeff", "1", "42", "2024", "_", ".", "...", "?!", "//", "/", "\n/", ".\n", ")\n"),
    *("<|im_end|>", "<|im_start|>", "<|im_end", "|>", "<", ">", "<s>", "</s>"),
)
# Merges over every border that a wrong cut could make or miss.
MERGES = (
    *(("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ġ", "a"), (".", "Ċ"), (")", "Ċ"), ("Ċ", "/"), ("ĊĊ", "Ċ"), ("ĠĠ", "Ġ"), ("t", "h")),
    *(("th", "e"), ("Ġ", "the"), ("Ġ", "Ċ"), ("Ċ", "Ġ"), ("Ċ", "a"), ("č", "Ċ"), (".Ċ", "/"), ("1", "2"), ("a", "a")),
    *(("4", "2"), ("'", "s"), ("Ġ", "'"), ("/", "/"), ("<", "|"), ("|", ">"), ("Ã", "©"), ("Ġ", "Ì"), ("Ì", "ģ")),
)
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = _WORD + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
QWEN = _WORD + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
)


def _tokenizer(before: Any, last: dict[str, bool], added: tuple[Any, ...] = (), **parts: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for pair in MERGES:
        vocabulary.setdefault("".join(pair), len(vocabulary))
    inner = Tokenizer(models.BPE(vocabulary, list(MERGES), dropout=parts.pop("dropout", None)))
    inner.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(**last)])
    for name, part in parts.items():
        setattr(inner, name, part)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    fast.add_tokens(["<|im_start|>"], special_tokens=True)
    fast.add_tokens(list(added))
    return fast


def _split(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _added(content: str, **how: bool) -> Any:
    from tokenizers import AddedToken

    return AddedToken(content, **({"normalized": False} | how))


def _digits() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Digits(individual_digits=True)


def _nfc() -> Any:
    from tokenizers import normalizers

    return normalizers.NFC()


def _trimming() -> Any:
    from tokenizers import processors

    return processors.ByteLevel(trim_offsets=True)


WORDS = {"add_prefix_space": False, "use_regex": True}
BYTES = {"add_prefix_space": False, "use_regex": False}
BY_PIECES: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: _tokenizer([], WORDS),
    "SmolLM 2": lambda: _tokenizer([_digits()], WORDS),
    "Llama 3": lambda: _tokenizer([_split(LLAMA)], BYTES),
    "Qwen": lambda: _tokenizer([_split(QWEN)], BYTES, (_added("<tool_call>"),), normalizer=_nfc()),
    "gpt-oss": lambda: _tokenizer([_split(O200K)], BYTES),
    "an added word with a mark": lambda: _tokenizer([], WORDS, (_added("a_x"), _added("e)", normalized=True))),
    "an added word": lambda: _tokenizer([], WORDS, (_added("the", normalized=True), _added("a<"))),
}
WHOLE: dict[str, Callable[[], Any]] = {
    "a space before the first word": lambda: _tokenizer([], {"add_prefix_space": True, "use_regex": True}),
    "no words": lambda: _tokenizer([], BYTES),
    "an unknown expression": lambda: _tokenizer([_split(r"\w+ \w+")], WORDS),
    "places without white space": lambda: _tokenizer([], WORDS, post_processor=_trimming()),
    "a token that takes the space before it": lambda: _tokenizer([], WORDS, (_added("the", lstrip=True),)),
    "a token with a space": lambda: _tokenizer([], WORDS, (_added("a the"),)),
    "dropout": lambda: _tokenizer([], WORDS, dropout=0.5),
}


def _texts() -> list[str]:
    chance = random.Random(7)
    chat = (
        "<|im_start|>user\nWhat  is it?\n\nSay a the.\nA /b\n/c<|im_end|>\n<|im_start|>assistant\nthe a\n<|im_end|>\n"
    )
    ascii_ = [*(part for part in PARTS if part.isascii()), "(", "_x", "'", "'ll(", "42'"]
    plain = ["".join(chance.choices(ascii_, k=chance.randrange(1, 30))) for _ in range(300)]
    mixed = ["".join(chance.choices(PARTS, k=chance.randrange(1, 30))) for _ in range(400)]
    return ["", chat, "a<|im_end|> a", "(the_x) e)", *plain, *mixed, "", chat]


@pytest.mark.parametrize("name", [*BY_PIECES, *WHOLE])
def test_pieces_give_the_tokens_of_the_whole_at_their_places(name: str) -> None:
    tokenizer = (BY_PIECES | WHOLE)[name]()
    assert (splitter(tokenizer) is not None) == (name in BY_PIECES)
    if name == "dropout":  # another result each time
        return
    assert leading_bos(tokenizer) is None
    encoder, texts = Encoder(tokenizer), _texts()
    for some in (texts[:400], texts[400:], texts[:50]):  # with nothing known, and with much
        found = encoder.encode(some)
        expected = tokenizer(some, add_special_tokens=False, return_offsets_mapping=True)
        assert found.lengths.tolist() == [len(ids) for ids in expected["input_ids"]]
        assert found.ids.tolist() == [i for ids in expected["input_ids"] for i in ids]
        places: list[tuple[int, int]] = []
        base = 0
        for text, offsets in zip(some, expected["offset_mapping"], strict=True):
            places += [(base + start, base + end) for start, end in offsets]
            base += len(text)
        assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == places


@pytest.mark.parametrize("template", TEMPLATES)
def test_rendered_chats_have_the_tokens_of_the_whole(template: str) -> None:
    tokenizer, chance = BY_PIECES["SmolLM 2"](), random.Random(template)
    tokenizer.chat_template = TEMPLATES[template]
    texts = tokenizer.apply_chat_template([conversation(chance) for _ in range(40)], tokenize=False)
    found = Encoder(tokenizer).encode(texts)
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert found.lengths.tolist() == [len(ids) for ids in expected]
    assert found.ids.tolist() == [i for ids in expected for i in ids]


def test_special_tokens_that_are_to_be_read_as_text_are() -> None:
    tokenizer = BY_PIECES["GPT-2"]()
    tokenizer.split_special_tokens = True
    text = "a <|im_end|> a"
    found = Encoder(tokenizer).encode([text])
    assert tokenizer.eos_token_id not in found.ids
    assert found.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_is_known_is_forgotten_before_it_grows_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetree_worker.tokenize.encode.KEPT_PIECES", 10)
    tokenizer = BY_PIECES["GPT-2"]()
    encoder = Encoder(tokenizer)
    texts = [f"word{i} the{i % 3}" for i in range(60)]
    found = [i for at in range(0, 60, 6) for i in encoder.encode(texts[at : at + 6]).ids.tolist()]
    assert found == [i for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in ids]
    pieces = encoder._pieces
    assert pieces is not None
    assert len(pieces._sizes) <= 10 + 12
