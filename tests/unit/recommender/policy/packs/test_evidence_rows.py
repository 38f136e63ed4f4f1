# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest
from finetree_recommender.policy.pack import load_builtin, parse

ROOT = Path(__file__).parents[5]
SPEC = importlib.util.spec_from_file_location("evidence_rows", ROOT / "benchmarks/recommender/evidence_rows.py")
evidence_rows = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(evidence_rows)


def summary(method, ratio=None, pace=None, seeds=(1, 2, 3)):
    return {"task": "codes", "method": method, "seeds": seeds, "relative_to_full": ratio, "pace": pace}


RESULTS = {
    "model": "smollm2-135m-instruct",
    "summaries": [
        summary("full", pace={"tokens_per_second": 100.0}),
        summary("lora", {"low": 0.9, "expected": 0.974, "high": 1.041}, {"tokens_per_second": 184.6}),
        summary("prefix", seeds=(1,)),
    ],
}


def test_a_result_becomes_a_row_with_its_interval():
    quality, speed = evidence_rows.rows(RESULTS)
    assert quality["id"] == "measured.codes.lora.quality"
    assert (quality["low"], quality["expected"], quality["high"]) == (90.0, 97.4, 104.1)
    assert quality["text"] == "97.4 % (90 to 104.1)"
    assert (speed["id"], speed["expected"], speed["text"]) == ("measured.codes.lora.speed", 1.85, "1.85 times")


def test_the_rows_go_between_the_packs_markers_and_it_still_loads():
    text = evidence_rows.PACK.read_text(encoding="utf-8")
    new = evidence_rows.patched(text, evidence_rows.lines(evidence_rows.rows(RESULTS)))
    pack = parse(new.encode(), {"playbook-1": load_builtin()["playbook-1"]})
    found = {item.id: item for item in pack.rules.content.findings}
    assert found["measured.codes.lora.quality"].expected == pytest.approx(97.4)
    assert pack.provenance(found["measured.codes.lora.quality"].source).source.endswith("methods.json")
    assert evidence_rows.patched(new, "") == evidence_rows.patched(text, "")


def test_a_pack_without_markers_is_refused():
    with pytest.raises(ValueError, match="no markers"):
        evidence_rows.patched("id: house\n", "")
