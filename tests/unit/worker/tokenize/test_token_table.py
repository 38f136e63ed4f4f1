# SPDX-License-Identifier: Apache-2.0
"""The columns of a table, counted over whole blocks, are what each row's own tokens and words say."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.plan import LossOn
from finetree_worker.tokenize import tokenizer
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from finetree_worker.tokenize.token_table import (
    LEARNS_TO_END,
    ODD_BEGINNING,
    ReadResult,
    open_table,
    row_keys,
    write_table,
)
from finetree_worker.tokenize.tokenizer import RowTokenizer, blocks, ending_ids
from worker_harness import examples_of

CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, None, "é"]}}}
CHATS = [
    Row(4, (Message("user", "one"), Message("assistant", "two"), Message("user", "x"), Message("assistant", "y"))),
    Row(5, (Message("assistant", "only an answer"),)),
    Row(7, (Message("user", "q"), Message("assistant", "not learned", learned=False))),
    Row(8, (Message("system", "s"), Message("user", "<s> inside"), Message("assistant", "a"), Message("user", "b"))),
    Row(
        9, (Message("user", "f?"), Message("assistant", "", (CALL,)), Message("tool", "r", (), "c1", "f")), "", (CALL,)
    ),
]
TEXTS = [Row(1, text="plain text"), Row(2, text=" "), Row(3, text="<|im_end|>"), Row(4, text="é"), Row(9, text="plain")]


def _with_bos(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    mine = copy.deepcopy(tokenizer)
    mine.add_special_tokens({"bos_token": "<s>"})
    post = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", mine.bos_token_id)])
    mine.backend_tokenizer.post_processor = post
    return mine


@pytest.fixture
def _three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three rows."""
    monkeypatch.setattr(tokenizer, "BLOCK_ROWS", 3)


@pytest.mark.usefixtures("_three_rows")
@pytest.mark.parametrize("loss_on", LossOn)
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("rows", "row_format"), [(CHATS, RowFormat.CHAT), (TEXTS, RowFormat.TEXT)])
def test_columns_are_those_of_the_rows(  # noqa: PLR0917 - fixtures and parameters
    tokenizer: Any, tmp_path: Path, rows: list[Row], row_format: RowFormat, bos: bool, loss_on: LossOn
) -> None:
    mine = _with_bos(tokenizer) if bos else tokenizer
    alone = [example for row in rows for example in examples_of([row], row_format, mine, loss_on)]
    maker = RowTokenizer(mine, loss_on)
    write_table(
        tmp_path,
        (maker.block(some, maker.render(some, row_format)) for some in blocks(rows)),
        maker,
        read=lambda: ReadResult(row_format),
    )
    table = open_table(tmp_path)
    assert table.rows.tolist() == [row.number for row in rows]
    assert table.contents.tolist() == [row_keys(row)[0] for row in rows]
    for at, example in enumerate(alone):
        found, ids = table.example(at, 10_000), example.tokens.tolist()
        learned = [i for i, mine_ in enumerate(example.is_target.tolist()) if mine_]
        assert (found.tokens.tolist(), found.is_target.tolist()) == (ids, example.is_target.tolist())
        assert int(table.targets[at]) == example.targets
        assert int(table.firsts[at]) == next((i for i in learned if i), 0)
        odd = bos and (ids[:1] != [mine.bos_token_id] or ids.count(mine.bos_token_id) != 1)
        ends = bool(learned) and ids[learned[-1]] in ending_ids(mine)
        assert int(table.marks[at]) == ODD_BEGINNING * odd + LEARNS_TO_END * ends


@pytest.mark.parametrize("row", [*CHATS, *TEXTS, Row(1, text='it\'s "so"\n\u2028')])
def test_keys_are_hashes_of_what_a_row_says(row: Row) -> None:
    """Which rows a split holds out hangs on them: they stay the same from version to version."""
    from hashlib import blake2b

    def hashed(value: object) -> int:
        # The choices of a question came later: they are no part of what is trained on.
        said = repr(value).replace(", choices=())", ")")
        return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), "little", signed=True)

    answers = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    before = row.messages[: answers[-1]] if answers else ()
    assert row_keys(row) == (hashed(replace(row, number=0)), hashed(before) if before else 0)


@pytest.mark.usefixtures("_three_rows")
def test_blocks_end_with_the_row_that_fills_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "BLOCK_CHARACTERS", 10)
    sizes = [1, 1, 1, 4, 7, 20, 1, 1]
    rows = [Row(i, text="x" * size) for i, size in enumerate(sizes)]
    taken: list[int] = []
    made = blocks(row for row in rows if taken.append(row.number) is None)  # type: ignore[func-returns-value]
    assert [row.number for row in next(made)] == [0, 1, 2] == taken  # no row is read too early
    assert [[row.number for row in block] for block in made] == [[3, 4], [5], [6, 7]]
    # Functions count, which are longer than words in many files.
    assert len(list(blocks([replace(CHATS[4], number=i) for i in range(3)]))) == 3
