# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.paging import PageTokens, page_size


def test_sizes():
    assert page_size(0) == 50
    assert page_size(0, default=7) == 7
    assert page_size(20) == 20
    assert page_size(5000) == 1000
    with pytest.raises(InvalidArgument):
        page_size(-1)


@pytest.mark.parametrize("position", ["", "smollm2-135m", "ü/火", "x" * 200])
def test_a_token_gives_its_position_back(position):
    tokens = PageTokens()
    token = tokens.issue("ListModels:smol", position)
    assert token.isascii()
    assert tokens.read("ListModels:smol", token) == position


def test_no_token_is_the_first_page():
    assert PageTokens().read("ListModels", "") is None


def test_replicas_with_one_key_read_each_others_tokens():
    assert PageTokens("shared").read("s", PageTokens("shared").issue("s", "17")) == "17"


def test_tokens_that_are_not_ours_are_refused():
    tokens = PageTokens()
    good = tokens.issue("ListModels:a", "17")
    flipped = ("B" if good[0] == "A" else "A") + good[1:]
    strangers = [
        flipped,
        good[:-1],
        good + "AAAA",
        "x",
        "!!",
        "火",
        "AAAA" * 8,
        PageTokens().issue("ListModels:a", "17"),
    ]
    for token in strangers:
        with pytest.raises(InvalidArgument) as caught:
            tokens.read("ListModels:a", token)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
        assert caught.value.violations[0].field_path == "page_token"


def test_a_token_is_bound_to_its_query():
    tokens = PageTokens()
    with pytest.raises(InvalidArgument):
        tokens.read("ListModels:b", tokens.issue("ListModels:a", "17"))
