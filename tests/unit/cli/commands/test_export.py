# SPDX-License-Identifier: Apache-2.0
"""Number formats that `finetree export` takes, and what it says of those that weights are never merged into."""

import click
import pytest
from finetree_cli.commands import export


@pytest.mark.parametrize("given", ["f16", "Q8_0", "BF16"])
def test_number_formats_in_any_case(given):
    assert export.WeightType().convert(given, None, None) == given.lower()


@pytest.mark.parametrize(("given", "made"), [("q4_k_m", "Q4_K_M"), ("IQ4_XS", "IQ4_XS"), ("nf4", "Q4_K_M")])
def test_fewer_bits_are_refused_with_the_command_that_makes_them(given, made):
    with pytest.raises(click.BadParameter, match=f"llama-quantize model-f16.gguf model-{made}.gguf {made}"):
        export.WeightType().convert(given, None, None)


def test_other_words_are_refused_with_those_that_there_are():
    with pytest.raises(click.BadParameter, match="not one of f32, f16, bf16, q8_0"):
        export.WeightType().convert("float", None, None)


def test_exports_of_one_job_are_told_apart_by_their_names():
    assert export.display_name("JOB", "gguf", "q8_0") == "gguf q8_0 of JOB"
    assert export.display_name("JOB", "transformers", None) == "transformers of JOB"
    assert len(export.display_name("x" * 300, "gguf", None)) == 256
