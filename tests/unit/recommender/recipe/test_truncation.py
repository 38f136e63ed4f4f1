# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.types.v1 import training_data_pb2
from finetree_recommender.recipe.truncation import loss_at
from google.protobuf import json_format


def profile(examples: int, total: int = 0, **buckets: int) -> training_data_pb2.DatasetProfile:
    lengths = [{"upper_bound": int(bound[1:]), "count": count} for bound, count in buckets.items()]
    document = {"examples": examples, "token_lengths": lengths} | ({"total_tokens": total} if total else {})
    return json_format.ParseDict(document, training_data_pb2.DatasetProfile())


@pytest.mark.parametrize(
    ("data", "length", "share", "rows", "words"),
    [
        (profile(10, _1000=9, _9000=1), 1000, 8000 / 18000, 1, "up to 44 percent"),
        (profile(10, _1000=9, _9000=1), 9000, 0.0, 0, "less than 1 percent"),
        (profile(1000, _1000=999, _1001=1), 1000, 1 / 1_000_001, 1, "less than 1 percent"),
        (profile(10, total=640_000), 4096, 1 - 4096 / 64_000, 0, "at least 94 percent"),
    ],
    ids=["much", "nothing", "little", "average"],
)
def test_the_share_of_tokens_that_a_length_loses(data, length, share, rows, words):
    lost = loss_at(data, length)
    assert (lost.share, lost.rows) == (pytest.approx(share), rows)
    assert lost.words == words


@pytest.mark.parametrize("data", [None, profile(10), profile(10, total=10_000)], ids=["none", "count", "average"])
def test_what_is_lost_of_rows_of_unknown_length_is_unknown(data):
    assert loss_at(data, 4096) is None
