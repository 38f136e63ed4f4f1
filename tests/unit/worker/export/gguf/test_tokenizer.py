# SPDX-License-Identifier: Apache-2.0
"""Tokenizers in GGUF files: made again by llama.cpp's rules they make the same tokens, or are refused."""

from typing import Any

import gguf
import pytest
from finetree_worker.errors import PlanError
from finetree_worker.export.gguf.pre_tokenizers import CHECK_TEXT, SPLITS
from finetree_worker.export.gguf.tokenizer import matching_vocabulary, tokenizer_of, vocabulary
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

TEXTS = (CHECK_TEXT, "", " a", "two  spaces\n\n\nand lines", "<|im_start|>user\nhi<|im_end|>\n", "1234567 isn't 'RE")
CONFIG = LlamaConfig(vocab_size=400, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)


def tokens(tokenizer: Any) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


@pytest.mark.parametrize("split", SPLITS)
def test_bytes_are_split_as_before(split, bpe):
    tokenizer = bpe(split)
    held = matching_vocabulary(tokenizer, CONFIG, TEXTS)
    assert held.split == split
    assert tokens(tokenizer_of(held)) == tokens(tokenizer)


def test_template_and_special_tokens_are_kept(bpe):
    tokenizer = bpe()
    held = vocabulary(tokenizer, CONFIG)
    again = tokenizer_of(held)
    assert (again.eos_token, again.bos_token, again.chat_template) == (
        "<|im_end|>",
        "<|im_start|>",
        tokenizer.chat_template,
    )
    assert held.tokens[held.special["eos"]] == "<|im_end|>"
    assert held.types[held.special["eos"]] == gguf.TokenType.CONTROL
    # Rows of the embeddings beyond the vocabulary have names that no text has.
    assert held.tokens[-1] == "[PAD399]"
    assert held.types[-1] == gguf.TokenType.UNUSED


def test_the_end_of_a_turn_is_told_where_it_is_not_the_end_of_a_sequence(bpe):
    tokenizer = bpe()
    tokenizer.add_special_tokens({"eos_token": AddedToken("<|endoftext|>", special=True)})
    held = vocabulary(tokenizer, CONFIG)
    assert held.tokens[held.special["eos"]] == "<|endoftext|>"
    assert held.tokens[held.special["eot"]] == "<|im_end|>"
    assert {held.tokens[i] for i in held.ends} == {"<|endoftext|>", "<|im_end|>"}


def test_a_split_without_a_name_is_refused(bpe):
    tokenizer = bpe()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d{2}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(PlanError, match="no name for") as raised:
        vocabulary(tokenizer, CONFIG)
    assert raised.value.reason == "EXPORT_TOKENIZER_UNSUPPORTED"


def test_a_tokenizer_that_makes_other_tokens_is_refused(bpe):
    tokenizer = bpe("llama-bpe")
    # Llama 3's split under a name that stands for ignored merges, with merges that are not ignored.
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(PlanError, match="changes texts"):
        vocabulary(tokenizer, CONFIG)


def pieces(*, prefix: str) -> Any:
    """A tokenizer as transformers makes one of a SentencePiece model; `prefix` says where a space is added."""
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    inner.train_from_iterator(
        ["\u2581the \u2581quick brown fox doesn't stop"] * 20 + ["the cat and the dog 12"] * 9, trainer
    )
    model = __import__("json").loads(inner.to_str())["model"]
    vocabulary_, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    inner = Tokenizer(models.BPE(vocabulary_, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    steps: list[Any] = [normalizers.Prepend("\u2581")] if prefix == "every part" else []
    if prefix == "beginning":
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(("prefix", "written"), [("every part", True), ("nowhere", False)])
def test_pieces_are_joined_by_their_scores(prefix, written):
    tokenizer = pieces(prefix=prefix)
    held = matching_vocabulary(tokenizer, CONFIG, TEXTS)
    assert held.add_space_prefix is written
    assert tokens(tokenizer_of(held)) == tokens(tokenizer)
    assert held.types[tokenizer.convert_tokens_to_ids("<0x41>")] == gguf.TokenType.BYTE


def test_a_space_at_the_beginning_alone_is_left_out_where_chats_begin_with_a_special_token():
    tokenizer = pieces(prefix="beginning")
    chats = ["<s>the quick fox</s>", "<s> the dog 12"]
    # llama.cpp would put one behind <s> too, and the chats have none there.
    assert matching_vocabulary(tokenizer, CONFIG, chats).add_space_prefix is False
    with pytest.raises(PlanError, match="makes other tokens of 'the dog'"):
        matching_vocabulary(tokenizer, CONFIG, [*chats, "the dog"])
