# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_recommender.rule_pack.pack import builtin_packs, parse
from finetree_recommender.rule_pack.yaml import PackError

HEAD = 'id: house\ndate: "2026-01-02"\ntitle: House rules\n'
SOURCE = "source: 'playbook L1'"


@pytest.fixture(scope="module")
def packs():
    return builtin_packs()


@pytest.mark.parametrize(
    ("base", "text", "words"),
    [
        (
            "playbook-1",
            (
                "tree:\n  nodes:\n"
                f"    - {{id: N4, when: {{memory: ['16']}}, 'yes': N5, 'no': PREFIX, {SOURCE}}}\n"
                f"    - {{id: N5, when: {{memory: ['8']}}, 'yes': QLORA, 'no': LORA, {SOURCE}}}\n"
            ),
            ["rule N5", "no answers take its 'yes'"],
        ),
        (
            "playbook-1",
            f"tree:\n  nodes:\n    - {{id: N4, when: {{memory: [cpu]}}, 'yes': QLORA, 'no': PREFIX, {SOURCE}}}\n",
            ["rule N4", "no answers take its 'yes'"],
        ),
        (
            "evidence-1",
            f"tree:\n  nodes:\n    - {{id: E6, when: {{}}, needs: LORA, 'yes': QLORA, 'no': E7, {SOURCE}}}\n",
            ["rule E6", "no answers take its 'yes'"],
        ),
        (
            "playbook-1",
            f"use_cases:\n  - {{id: use_case.all, when: {{}}, method: LORA, {SOURCE}}}\n",
            ["rule use_case.enterprise_budget", "before it take every case"],
        ),
        (
            "playbook-1",
            f"use_cases:\n  - {{id: use_case.big, when: {{memory: ['80']}}, method: LORA, {SOURCE}}}\n",
            ["rule use_case.big", "before it take every case"],
        ),
        (
            "playbook-1",
            f"upgrade:\n  - {{id: upgrade.all, when: {{}}, order: [LORA], {SOURCE}}}\n",
            ["rule upgrade.cpu_maximum", "before it take every case"],
        ),
        ("playbook-1", "remove: [upgrade.cpu]\n", ["upgrade: a gap", "memory cpu"]),
        ("evidence-1", "replace: [upgrade]\nupgrade: []\n", ["upgrade: a gap", "any case"]),
        (
            "playbook-1",
            (
                "recipe:\n  - knob: attention\n    input: device\n    rows:\n"
                f"      - {{id: ours, equals: [cpu_fp32], value: ATTENTION_KERNEL_EAGER, reason: r, {SOURCE}}}\n"
                "  - knob: attention\n    input: quality\n    rows:\n"
                f"      - {{id: theirs, equals: [BEST], value: ATTENTION_KERNEL_EAGER, reason: r, {SOURCE}}}\n"
            ),
            ["rule theirs", "quality is never 'BEST'"],
        ),
        (
            "playbook-1",
            (
                "recipe:\n  - knob: attention\n    input: device\n    rows:\n"
                f"      - {{id: ours, equals: [cpu_fp32], value: ATTENTION_KERNEL_EAGER, reason: r, {SOURCE}}}\n"
                f"      - {{id: theirs, equals: [cpu_fp32], value: ATTENTION_KERNEL_SDPA, reason: r, {SOURCE}}}\n"
            ),
            ["rule theirs", "rows before it take cpu_fp32"],
        ),
        (
            "playbook-1",
            (
                "recipe:\n  - knob: attention\n    input: weather\n    rows:\n"
                f"      - {{id: ours, equals: [FINE], value: ATTENTION_KERNEL_EAGER, reason: r, {SOURCE}}}\n"
            ),
            ["rule ours", "no input 'weather'"],
        ),
        (
            "playbook-1",
            (
                "recipe:\n  - knob: attention\n    input: examples\n    rows:\n"
                f"      - {{id: ours, at_least: 9, below: 9, value: ATTENTION_KERNEL_EAGER, reason: r, {SOURCE}}}\n"
                f"      - {{id: more, at_least: 9, below: .inf, value: ATTENTION_KERNEL_SDPA, reason: r, {SOURCE}}}\n"
            ),
            ["rule ours", "nothing lies from 9 to below 9"],
        ),
        (
            "playbook-1",
            (
                "replace: [recipe]\nrecipe:\n"
                f"  - {{knob: training.learning_rate, rows: [{{id: always, value: 1.0e-4, reason: r, {SOURCE}}}]}}\n"
                "  - knob: training.learning_rate\n    input: device\n    rows:\n"
                f"      - {{id: late, equals: [cpu_fp32], value: 2.0e-4, reason: r, {SOURCE}}}\n"
            ),
            ["rule late", "always always sets training.learning_rate of FULL"],
        ),
    ],
)
def test_a_rule_that_nothing_reaches_is_named(packs, base, text, words):
    with pytest.raises(PackError) as error:
        parse(f"{HEAD}extends: {base}\n{text}".encode(), packs)
    assert all(word in str(error.value) for word in words), error.value
