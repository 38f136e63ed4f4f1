# SPDX-License-Identifier: Apache-2.0
"""Tokens that are counted without a tokenizer, against those that SmolLM2's tokenizer makes of the rendered rows."""

import gettext
import importlib.util
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pycountry
import pytest
from finetree_api.types.v1 import training_data_pb2
from finetree_data.file_profile import file_profile
from finetree_data.options import Reading
from finetree_data.reader import RowFile

pytestmark = [pytest.mark.slow(10), pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]
COUNTRIES = list(pycountry.countries)[:40]
PARAGRAPHS = [
    part
    for page in sorted((ROOT / "docs/decisions").glob("00[0-4]*.md"))
    for part in page.read_text(encoding="utf-8").split("\n\n")
    if len(part) > 200 and not part.startswith("|")
]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def question(name: str) -> str:
    return f"What is the alpha-3 code of {name}?"


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def call(place: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"place": place})}
    turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    asked = {"role": "user", "content": f"How is the weather in {place}?"}
    answer = [{"role": "tool", "content": "sunny"}, {"role": "assistant", "content": f"It is sunny in {place}."}]
    return {"tools": [TOOL], "messages": [asked, turn, *answer]}


def paragraphs(seed: int, number: int) -> list[str]:
    return random.Random(seed).choices(PARAGRAPHS, k=number)


def long_chat(seed: int) -> dict[str, Any]:
    roles = ("user", "assistant") * 3
    return chat(*zip(roles, paragraphs(seed, 6), strict=True))


ROWS: Mapping[str, list[dict[str, Any]]] = {
    "short chats": [chat(("user", question(each.name)), ("assistant", each.alpha_3)) for each in COUNTRIES],
    "with a system message": [
        chat(("system", "Answer with a code."), ("user", question(each.name)), ("assistant", each.alpha_3))
        for each in COUNTRIES
    ],
    "prompt and completion": [{"prompt": question(each.name), "completion": each.alpha_3} for each in COUNTRIES],
    "long chats": [long_chat(seed) for seed in range(40)],
    "long instructions": [
        dict(zip(("instruction", "input", "output"), paragraphs(seed, 3), strict=True)) for seed in range(40)
    ],
    "calls of functions": [call(each.name) for each in COUNTRIES],
    "code": [
        {"prompt": "Write a module.", "completion": path.read_text(encoding="utf-8")}
        for path in sorted((ROOT / "services/runtime/finetree_runtime").glob("*.py"))
        if path.stat().st_size > 200
    ],
    "text": [{"text": part} for part in PARAGRAPHS[:40]],
}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from finetree_worker.models.load import load_tokenizer

    return load_tokenizer(smollm2)


def write(folder: Path, kind: str) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]), encoding="utf-8")
    return file


def tokens_of(file: RowFile, tokenizer: Any) -> int:
    """Tokens of all rows as they are trained."""
    from finetree_worker.plan import LossOn
    from finetree_worker.tokenize.tokenizer import RowTokenizer

    rows, maker = list(file.rows()), RowTokenizer(tokenizer, LossOn.ALL)
    assert file.row_format is not None
    return int(maker.block(rows, maker.render(rows, file.row_format)).tokens.size)


def holds(profile: training_data_pb2.DatasetProfile, tokens: int) -> bool:
    return profile.total_tokens_range.low <= tokens <= profile.total_tokens_range.high


@pytest.mark.parametrize("kind", ROWS)
def test_what_is_trained_lies_within_what_is_counted(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    counted = file_profile(path, Reading()).profile
    tokens = tokens_of(RowFile(path, Reading()), tokenizer)
    assert holds(counted, tokens)
    assert tokens == pytest.approx(counted.total_tokens, rel=0.3)


@pytest.mark.parametrize("language", ["de", "pl", "ru", "el", "ar", "hi", "zh_CN", "ja", "ko"])
def test_rows_of_other_languages_are_within_it_too(language: str, tokenizer: Any, tmp_path: Path) -> None:
    """SmolLM2's tokenizer has learned English: it takes the most tokens for them of those that are known."""
    name = gettext.translation("iso3166-1", pycountry.LOCALES_DIR, languages=[language]).gettext
    file = tmp_path / "rows.jsonl"
    rows = [chat(("user", name(each.name)), ("assistant", each.alpha_3)) for each in COUNTRIES]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    counted = file_profile(file, Reading()).profile
    assert holds(counted, tokens_of(RowFile(file, Reading()), tokenizer))


def layouts() -> dict[str, str]:
    """Usual templates, and two that begin a row with a system message of their own."""
    spec = importlib.util.spec_from_file_location("layouts", ROOT / "tests/unit/data/rows/usual_templates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, str] = module.TEMPLATES
    own = "{% if messages[0].role != 'system' %}{% set messages = [{'role': 'system', 'content': '"
    qwen = f"{own}You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'}}] + messages %}}{{% endif %}}"
    llama = f"{own}Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024'}}] + messages %}}{{% endif %}}"
    return {**found, "Qwen 2.5": qwen + found["ChatML"], "Llama 3.1": llama + found["Llama 3"]}


LAYOUTS = layouts()
IN_TEXT = ("Zephyr", "Tulu", "Llama 2")
"""Templates whose marks are text; those of the others are one token each, as in their own tokenizers."""
MARKS = re.compile(r"<\|?\w+\|?>|<\uff5c[^\uff5c]+\uff5c>|\[/?[A-Z_]+\]|</s>")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_usual_templates_lie_within_it_too(name: str, smollm2: Path, tmp_path: Path) -> None:
    from finetree_worker.models.load import load_tokenizer

    tokenizer, layout = load_tokenizer(smollm2), LAYOUTS[name]
    if name not in IN_TEXT:
        roles = [f"<|{role}|>" for role in ("system", "user", "assistant")]
        tokenizer.add_special_tokens({"additional_special_tokens": [*set(MARKS.findall(layout)), *roles]})
    tokenizer.chat_template = layout
    for kind in ("short chats", "with a system message", "prompt and completion", "long chats"):
        path = write(tmp_path, kind)
        counted = file_profile(path, Reading()).profile
        assert holds(counted, tokens_of(RowFile(path, Reading()), tokenizer)), kind
