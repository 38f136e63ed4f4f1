# SPDX-License-Identifier: Apache-2.0
"""Chat templates in Ollama's language: the texts around turns, or nothing where a template does more."""

import re

import pytest
from finetree_worker.export.ollama import modelfile, template, turns_of

LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_ONLY = (
    "{% for message in messages %}{% if loop.last %}!{% endif %}{{ message['role'] }}:{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")]


def rendered(tokenizer, chat):
    turns = [{"role": role, "content": content} for role, content in chat]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def go(text: str, chat) -> str:
    """What Go's text/template makes of the few actions that are used: range over turns, if, else if, eq, strings."""

    def action(part: str) -> str:
        return re.sub(r"^-? ?| ?-?$", "", part)

    tokens = [action(part) for part in re.findall(r"\{\{(.*?)\}\}", text)]
    assert not re.sub(r"\{\{.*?\}\}", "", text), "no text stands outside of actions"
    assert tokens[0] == "range $i, $_ := .Messages"
    assert tokens[-1] == "end"
    found = ""
    for i, (role, content) in enumerate(chat):
        open_: list[list[bool]] = []  # of each if: whether its branch runs, and whether one has run
        for token in tokens[1:-1]:
            runs = all(branch[0] for branch in open_)
            if token.startswith("if "):
                holds = condition(token[3:], i, role)
                open_.append([holds, holds])
            elif token.startswith("else if "):
                holds = not open_[-1][1] and condition(token[8:], i, role)
                open_[-1] = [holds, open_[-1][1] or holds]
            elif token == "else":
                open_[-1] = [not open_[-1][1], True]
            elif token == "end":
                open_.pop()
            elif runs:
                found += content if token == ".Content" else token[1:-1].encode().decode("unicode_escape")
        assert open_ == []
    return found


def condition(text: str, i: int, role: str) -> bool:
    return i == 0 if text == "eq $i 0" else role == re.fullmatch(r'eq \.Role "(\w+)"', text)[1]


@pytest.mark.parametrize("jinja", [None, WITH_DEFAULT, LLAMA2], ids=["chatml", "default", "llama 2"])
def test_ollama_s_template_renders_what_the_model_was_trained_with(jinja, bpe):
    tokenizer = bpe()
    tokenizer.chat_template = jinja or tokenizer.chat_template
    turns = turns_of(tokenizer, add_bos=False)
    assert turns is not None
    for chat in (CHAT, CHAT[:1], [("system", "Be kind."), *CHAT]):
        assert go(template(turns), chat) == rendered(tokenizer, chat)


def test_a_token_that_ollama_adds_itself_is_left_out(bpe):
    tokenizer = bpe()
    tokenizer.chat_template = LLAMA2
    turns = turns_of(tokenizer, add_bos=True)
    assert go(template(turns), CHAT) == rendered(tokenizer, CHAT).removeprefix("<|im_start|>")


def test_a_template_that_does_more_is_left_to_ollama(bpe):
    tokenizer = bpe()
    tokenizer.chat_template = LAST_ONLY
    assert turns_of(tokenizer, add_bos=False) is None
    assert "TEMPLATE" not in modelfile("m.gguf", tokenizer, ["<|im_end|>"], add_bos=False)


def test_a_modelfile_names_file_template_and_stop(bpe):
    lines = modelfile("m.gguf", bpe(), ["<|im_end|>"], add_bos=False)
    assert lines.startswith('FROM ./m.gguf\nTEMPLATE """{{- range')
    assert lines.endswith('"""\nPARAMETER stop "<|im_end|>"\n')
