# SPDX-License-Identifier: Apache-2.0
"""Exported files in llama.cpp itself, where llama-cpp-python is installed: tokens, answers, LoRA."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.export.gguf import lora_file, model_file
from finetree_worker.export.gguf.model_file import About
from finetree_worker.export.gguf.pre_tokenizers import CHECK_TEXT
from finetree_worker.export.gguf.tokenizer import matching_vocabulary
from finetree_worker.export.gguf.weights import WeightType
from finetree_worker.methods.lora import Lora
from peft import PeftModel

REASON = "uv pip install llama-cpp-python (built from source, 12 min)"
llama_chat_format: Any = pytest.importorskip("llama_cpp.llama_chat_format", reason=REASON)
llama_cpp: Any = pytest.importorskip("llama_cpp", reason=REASON)

TEXTS = ("1234567 isn't 'RE", "two  spaces\n\n\nand lines", "<|im_start|>user\nÜnïcödé 我想 🚀<|im_end|>\n", CHECK_TEXT)


def written(folder: Path, model: Any, tokenizer: Any) -> Path:
    held = matching_vocabulary(tokenizer, model.config, TEXTS)
    file = folder / "model.gguf"
    model_file.write(file, model, held, about=About("tiny"), weights=WeightType.F32, on_fraction=lambda _: None)
    return file


def started(file: Path, **more: Any) -> Any:
    settings = {"n_ctx": 128, "logits_all": True, "verbose": False, "n_threads": 1, "type_k": 0, "type_v": 0}
    return llama_cpp.Llama(model_path=str(file), **settings, **more)


@pytest.mark.parametrize(("shape", "split"), [("llama", "smollm"), ("llama3", "llama-bpe"), ("qwen2", "qwen2")])
def test_it_makes_the_same_tokens(shape, split, shaped, bpe, tmp_path):
    model, tokenizer = shaped(shape), bpe(split)
    program = started(written(tmp_path, model, tokenizer))
    for text in TEXTS:
        theirs = program.tokenize(text.encode(), add_bos=False, special=True)
        assert theirs == tokenizer.encode(text, add_special_tokens=False), text


def test_it_answers_a_chat_as_the_model_does(shaped, bpe, tmp_path):
    """Token by token: a random model's answer is no text."""
    model, tokenizer = shaped("llama"), bpe("smollm")
    program = started(written(tmp_path, model, tokenizer))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    form = llama_chat_format.Jinja2ChatFormatter(
        template=program.metadata["tokenizer.chat_template"], bos_token="", eos_token="<|im_end|>"
    )
    prompt = program.tokenize(form(messages=chat).prompt.encode(), add_bos=False, special=True)
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == list(asked)
    with torch.no_grad():
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=None)
    theirs = list(islice(program.generate(prompt, temp=0.0, repeat_penalty=1.0), 12))
    assert theirs == output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("method", [Lora(4, 8.0, 0.0), Lora(4, 8.0, 0.0, rank_stabilized=True)], ids=["lora", "rslora"])
def test_it_adds_an_adapter_as_peft_does(method, shaped, bpe, tmp_path):
    model = shaped("llama")
    base = written(tmp_path, model, bpe("smollm"))
    adapted = replace(method).blank(model)
    assert isinstance(adapted, PeftModel)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1)
    file = tmp_path / "adapter.gguf"
    lora_file.write(file, adapted, about=About("adapter"), weights=WeightType.F32, on_fraction=lambda _: None)
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        ours = adapted.get_base_model()(tokens).logits[0]
    program = started(base, lora_path=str(file))
    program.eval(tokens[0].tolist())
    theirs = torch.from_numpy(program.scores[: tokens.shape[1]].copy())
    assert float((ours - theirs).abs().max()) < 1e-3
