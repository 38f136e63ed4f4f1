# SPDX-License-Identifier: Apache-2.0
"""Files in the shapes that public projects write, with rows of our own: what the model reads, and what it learns of it.

Rows are rendered by a template that writes each turn as [role]text; what is learned stands between « and ».
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.render import render
from finetree_worker.tokenize.rows import RowFormat, RowSource, found_row_format, rows_of
from public_files import CASES

TEMPLATE = (
    "{% for tool in tools or [] %}({{ tool['function']['name'] }}){% endfor %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}<{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}>"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def marked(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    for first, last in reversed(spans):
        text = f"{text[:first]}«{text[first:last]}»{text[last:]}"
    return text


@pytest.fixture(scope="module")
def shown(tokenizer: Any) -> Callable[[Path], tuple[RowFormat | None, list[str]]]:
    """Reads a file and renders its rows."""
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = TEMPLATE
    template = ChatTemplate(plain)

    def show(path: Path) -> tuple[RowFormat | None, list[str]]:
        file = RowSource(path).open()
        how: dict[str, Any] = {"template": template, "loss_on": LossOn.COMPLETIONS}
        rendered = [render(row, found_row_format(file), **how) for row in rows_of(file)]
        return file.row_format, [marked(row.text, row.spans) for row in rendered]

    return show


@pytest.mark.parametrize("name", CASES)
def test_a_public_format_is_read_as_its_project_means_it(
    tmp_path: Path, shown: Callable[[Path], tuple[RowFormat | None, list[str]]], name: str
) -> None:
    file, content, row_format, rows = CASES[name]
    path = tmp_path / file
    path.write_text(content, encoding="utf-8", newline="")
    assert shown(path) == (row_format, rows)
