# SPDX-License-Identifier: Apache-2.0
"""The rows that a preview keeps, and what it shows of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_api.types.v1.training_data_pb2 import SPLIT_TRAIN
from finetree_worker.data import preview
from worker_harness import data_plan, dataset_of


def test_a_preview_keeps_the_first_rows_and_the_findings_beyond_them(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "FIRST_ROWS", 2)
    rows = [{"prompt": "p" * (200 if i == 4 else 5), "completion": "c" * (100 if i == 3 else 3)} for i in range(6)]
    found = dataset_of(data_plan(write_rows(rows), length=64), tokenizer)
    preview.write(tmp_path, found.splits.values(), tokenizer)
    lines = [json.loads(line) for line in (tmp_path / preview.FILE).read_text().splitlines()]
    assert [int(line["row"]) for line in lines] == [1, 2, 4, 5]
    assert [(line.get("truncated", False), line.get("dropped", False)) for line in lines] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
    ]


def test_the_spans_of_a_row_are_its_whole_text_with_what_is_learned(
    write_rows: Callable[..., Path], tokenizer: Any
) -> None:
    row = {"messages": [{"role": "user", "content": "über"}, {"role": "assistant", "content": "ja, für"}]}
    found = dataset_of(data_plan(write_rows([row]), length=60), tokenizer)
    example = found.train[0]
    spans = list(preview.spans(example, len(example), tokenizer))
    assert "".join(span.text for span in spans) == tokenizer.decode(example.tokens.tolist())
    assert [span.text for span in spans if span.trained] == ["ja, für<|im_end|>"]
    assert sum(span.tokens for span in spans) == len(example)
    assert sum(span.tokens for span in spans if span.trained) == example.targets


def test_what_is_cut_off_is_marked_and_not_learned(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    found = dataset_of(data_plan(write_rows([{"text": "t" * 50}]), length=20), tokenizer)
    row = preview.preview_row(found.splits[SPLIT_TRAIN], 0, tokenizer)
    assert [(span.tokens, span.trained, span.cut) for span in row.spans] == [
        (1, False, False),
        (19, True, False),
        (31, False, True),
    ]
    assert (row.tokens, row.target_tokens) == (51, 19)
