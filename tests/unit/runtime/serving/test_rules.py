# SPDX-License-Identifier: Apache-2.0
"""The rules as they are read: every server has them, each names its source, and mistakes are named with their rule."""

import json
import re

import pytest
import yaml
from finetree_api.types.v1 import serving_pb2
from finetree_runtime.serving import rules
from finetree_runtime.serving.facts import Facts, Form
from finetree_runtime.serving.rules import RulesError, When, parse, parse_version


def raw() -> dict:
    text = rules.resources.files("finetree_runtime.serving").joinpath("rules.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def broken(change) -> str:
    document = raw()
    change({rule["id"]: rule for server in document["servers"] for rule in server["rules"]}, document)
    with pytest.raises(RulesError) as error:
        parse(json.dumps(document))
    return str(error.value)


def test_every_server_of_the_contract_has_rules_and_every_rule_one_place_in_its_code():
    loaded = rules.load()
    assert list(loaded.servers) == [number for number in serving_pb2.ServingTarget.values() if number]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", loaded.date)
    listed = [rule for server in loaded.servers.values() for rule in server.rules]
    assert len({rule.id for rule in listed}) == len(listed)
    for server in loaded.servers.values():
        assert list(server.checked) == sorted(server.checked, key=lambda text: parse_version(text) or ())
        for rule in server.rules:
            if server.target != serving_pb2.SERVING_TARGET_FINETREE:
                assert re.match(r"https://github\.com/[^/]+/[^/]+/blob/[^/]+/.+\.(py|go|cpp|md)$", rule.source_url), (
                    rule
                )
                assert server.checked
            assert rule.message.endswith(".")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda by, _: by["vllm.lora.dora"].pop("remedy"), "rule vllm.lora.dora: SERVES_WITH has steps"),
        (lambda by, _: by["vllm.model"].update(silent=True), "rule vllm.model: .*only NOT may be silent"),
        (lambda by, _: by["vllm.lora"]["when"].update(rnak=3), "rule vllm.lora: unknown condition 'rnak'"),
        (lambda by, _: by["vllm.lora"].update(note="x"), "rule vllm.lora: unknown key 'note'"),
        (lambda by, _: by["vllm.lora"].update(verdict="MAYBE"), "rule vllm.lora: unknown verdict 'MAYBE'"),
        (lambda by, _: by["vllm.lora"]["when"].update(form=["LORAX"]), "rule vllm.lora: unknown form 'LORAX'"),
        (lambda by, _: by["vllm.gguf"].update(versions={"from": "new"}), "rule vllm.gguf: 'new' is no version"),
        (lambda by, _: by["vllm.prefix"]["when"].update(form=["OTHER_PEFT"]), "VLLM: no general rule for PREFIX"),
        (lambda by, _: by["vllm.gguf"].update(versions={"from": "0.40.0"}), "VLLM: no general rule for GGUF_MODEL"),
        (lambda _, document: document["servers"].pop(0), "no rules for SERVING_TARGET_VLLM"),
        (lambda _, document: document["servers"][0].update(target="VLM"), "there is no server 'VLM'"),
    ],
)
def test_a_mistake_in_the_rules_is_named(change, text):
    assert re.match(text, broken(change))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.33.0", (0, 33, 0, 0)),
        ("v5.24", (5, 24, 0, 0)),
        ("0.33.0-rc2", (0, 33, 0, 0)),
        ("0.5.10.post1", (0, 5, 10, 0)),
        ("0b03adaa632b", None),
        ("", None),
        ("1.2.3.4.5", None),
    ],
)
def test_versions_are_compared_by_their_numbers(text, numbers):
    assert parse_version(text) == numbers


def test_what_depends_on_an_unknown_family_is_neither_true_nor_false():
    when = When((Form.LORA,), family_not=("llama",))
    assert when.holds(Facts(Form.LORA, family="llama")) is False
    assert when.holds(Facts(Form.LORA, family="gpt2")) is True
    assert when.holds(Facts(Form.LORA)) is None
    assert when.holds(Facts(Form.MODEL)) is False
