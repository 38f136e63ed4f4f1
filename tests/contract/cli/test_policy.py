# SPDX-License-Identifier: Apache-2.0
"""`finetree policy`: examples of a policy, what they reach, and what a policy holds; by the installed estimator."""

import json
from types import SimpleNamespace

import pytest
from finetree_cli import __main__ as entry

POLICY = """\
policies:
  research:
    files: ["research/*.yaml"]
    undecided: warn
    limits:
      - {metric: cost, max: 5 USD}
      - {metric: model_license, allowed: [apache-2.0]}
      - {metric: duration_seconds, max_increase: 20%}
    waivers:
      - {rule_id: model_license, owner: legal, reason: trial, until: 2026-12-31, files: [research/big.yaml]}
  production:
    files: ["training/*.yaml"]
    limits: [{metric: method, denied: [full]}]
examples:
  - name: a small model passes
    file: research/small.yaml
    job: {model: {name: smollm2-135m}, lora: {}, hardware: {accelerator: rtx-4090}, dataset: {profile: {examples: 9}}}
    verdict: pass
  - name: without rows it warns
    file: research/small.yaml
    job: {model: {name: smollm2-135m}, lora: {}, hardware: {accelerator: rtx-4090}}
    verdict: warn
    checks: {cost: undecided, model_license: pass}
  - name: another license is excepted in one job
    file: research/big.yaml
    as_of: 2026-12-31
    job: {model: {name: llama-3.2-3b}, qlora: {}, hardware: {accelerator: rtx-4090}, dataset: {profile: {examples: 9}}}
    verdict: waived
  - name: three epochs are more than one
    policy: research
    job:
      model: {name: smollm2-135m}
      lora: {}
      hardware: {accelerator: rtx-4090}
      training: {epochs: 3}
      dataset: {profile: {examples: 20000}}
    base:
      model: {name: smollm2-135m}
      lora: {}
      hardware: {accelerator: rtx-4090}
      training: {epochs: 1}
      dataset: {profile: {examples: 20000}}
    checks: {duration_seconds_increase: fail}
"""
WRONG = """\
  - name: what does not come
    policy: production
    job: {model: {name: smollm2-135m}, lora: {}, hardware: {accelerator: rtx-4090}}
    checks: {method: fail}
  - name: what is refused
    policy: production
    job: {model: {name: nothing-like-this}, lora: {}, hardware: {accelerator: rtx-4090}}
    verdict: pass
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*words)`: what `finetree` gives in a folder with a policy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".finetree").mkdir()
    (tmp_path / ".finetree" / "policy.yaml").write_text(POLICY, encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(POLICY + WRONG, encoding="utf-8")

    def command(*words: str) -> SimpleNamespace:
        code = entry.run(list(words))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return command


def test_examples_pass_and_limits_that_none_breaks_are_named(run):
    done = run("policy", "test", "--local")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("ok ") == 4
    assert "research: cost                       PASS, UNDECIDED; never FAIL" in done.out
    assert "research: duration_seconds_increase  PASS, FAIL\n" in done.out.replace("UNDECIDED, ", "")
    assert "production: method                   not reached" in done.out
    strict = run("policy", "test", "--local", "--require-coverage")
    assert strict.code == 3
    assert "POLICY_NOT_COVERED" in strict.err


def test_an_example_that_does_not_come_is_3_with_what_came(run):
    done = run("policy", "test", "--policy", "wrong.yaml", "--local", "--json")
    document = json.loads(done.out)
    assert (done.code, document["passed"]) == (3, False)
    assert [each["passed"] for each in document["examples"]] == [True] * 4 + [False] * 2
    missed, refused = document["examples"][4:]
    assert (missed["policy"], missed["checks"], missed["line"]) == ("production", {"method": "PASS"}, 44)
    assert missed["problems"] == ["expected method FAIL, got PASS: lora is not denied"]
    assert "refused: no model 'nothing-like-this'" in refused["problems"][0]
    reached = {(each["policy"], each["rule_id"]): each["verdicts"] for each in document["coverage"]}
    assert reached["production", "method"] == ["PASS"]
    assert reached["research", "model_license"] == ["PASS", "WAIVED"]


def test_a_policy_without_examples_passes_no_test(run, tmp_path):
    (tmp_path / "bare.yaml").write_text("limits: [{metric: fit}]\n", encoding="utf-8")
    done = run("policy", "test", "--policy", "bare.yaml")
    assert done.code == 2
    assert "POLICY_WITHOUT_EXAMPLES" in done.err


def test_a_policy_is_shown_as_it_applies(run):
    done = run("policy", "show", "--as-of", "2027-01-01")
    assert "cost                       at most 5.00 USD (deny, hard)" in done.out
    assert "duration_seconds_increase  at most 20% more than before (deny, hard)" in done.out
    assert "model_license expired after 2026-12-31 for research/big.yaml by legal: trial" in done.out
    one = json.loads(run("policy", "show", "--job", "training/a.yaml", "--json").out)
    assert [(each["name"], each["rule_ids"]) for each in one["policies"]] == [("production", ["method"])]
    assert run("policy", "show", "--job", "elsewhere.yaml").code == 2
