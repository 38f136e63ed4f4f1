# SPDX-License-Identifier: Apache-2.0
"""The five methods as SVG."""

import itertools
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.explain import cautions
from finetree_recommender.pictures import svg
from finetree_recommender.pictures.frontier import frontier_svg
from finetree_recommender.pictures.svg import Rectangle
from finetree_recommender.recommend import conclude

GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}


def compared(pack, read, evidence: Evidence | None, **fields: Any):
    missing = "" if evidence is not None else cautions.ESTIMATOR_UNAVAILABLE
    return conclude(pack, read(hardware=GPU24, **fields), evidence, missing=missing)


def test_the_description_has_the_standing_of_each_method(pack, read, evidence, assert_plain):
    content = frontier_svg(compared(pack, read, evidence(lora="FITS", qlora="FITS"), dataset_profile={"examples": 500}))
    assert_plain(content)
    description = re.search("<desc>(.*)</desc>", content)[1]
    assert "LoRA: on the frontier" in description
    assert "Full fine-tuning: does not fit" in description
    for words in ("Quality, % of full fine-tuning", "Device memory, GiB", "Time, seconds", "Cost, USD"):
        assert words in content


def test_without_rows_the_missing_input_is_named(pack, read):
    content = frontier_svg(compared(pack, read, None))
    assert "unknown: how many rows are" in content
    assert "of playbook-1, for a 7B model" in content


@pytest.mark.parametrize("examples", [0, 100, 1000, 100_000])
def test_no_texts_overlap(pack, read, evidence, examples):
    profile = {"dataset_profile": {"examples": examples}} if examples else {}
    for found in (None, evidence(lora="FITS", qlora="TIGHT"), evidence(full="FITS", adapter="FITS", prefix="FITS")):
        root = ET.fromstring(frontier_svg(compared(pack, read, found, **profile)))
        places = [place(element) for element in root.iter("{http://www.w3.org/2000/svg}text")]
        for one, other in itertools.combinations(places, 2):
            assert not one.overlaps(other), (one, other)
        assert max(item.right for item in places) <= float(root.get("width"))


def place(element):
    wide, high = svg.length(element.text, element.get("class")), float(element.get("font-size"))
    x, y = float(element.get("x")), float(element.get("y"))
    shift = {"start": 0.0, "middle": wide / 2, "end": wide}[element.get("text-anchor")]
    return Rectangle(x - shift, y - high * 0.75, wide, high)


def test_texts_of_a_pack_are_escaped(hostile, read, assert_plain):
    assert_plain(frontier_svg(compared(hostile, read, None)))
