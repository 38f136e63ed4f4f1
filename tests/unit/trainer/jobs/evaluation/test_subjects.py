# SPDX-License-Identifier: Apache-2.0
"""What an evaluation calls its subjects."""

import pytest
from finetree_trainer.jobs.evaluation.subjects import MOST_OF_NAME, shortened


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("lora of smollm2-135m-instruct on train.jsonl", "lora of smollm2-135m-instruct on train.jsonl"),
        ("a" * MOST_OF_NAME, "a" * MOST_OF_NAME),
        ("a" * (MOST_OF_NAME + 1), "a" * (MOST_OF_NAME - 1) + "…"),
        (f"{'a' * (MOST_OF_NAME - 2)} bcd", "a" * (MOST_OF_NAME - 2) + "…"),
    ],
)
def test_a_name_that_is_cut_says_so_and_has_room_for_a_step(name, label):
    assert shortened(name) == label
    assert len(f"{shortened(name)} step 10000000") <= 64
