# SPDX-License-Identifier: Apache-2.0
"""Policy files: limits in words, named policies, waivers, and what is wrong with its place."""

from pathlib import Path

import pytest
from finetree_api.estimator.v1 import check_plan_pb2 as pb
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.file import DEFAULT_FILE, find_policy_file, read_policies, require_policies
from finetree_cli.gate.policy.flags import LimitFlags
from google.protobuf import json_format
from google.type import money_pb2


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(content: str, name: str = "policy.yaml") -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(content, encoding="utf-8")
    return name


ALL = """\
undecided: warn
limits:
  - {metric: cost, max: 0.30 EUR, severity: deny, level: overridable}
  - {metric: cost, max_increase: 20%, severity: warn}
  - {metric: cost, max: 0.20 EUR, level: advisory, rule_id: cost.soft}
  - {metric: duration_seconds, max: 8h}
  - {metric: device_bytes, max: 24 GiB}
  - {metric: fit}
  - {metric: confidence, min: high}
  - {metric: method, allowed: [lora, qlora], denied: ["f*"]}
  - {metric: examples, max: 100000}
waivers:
  - {rule_id: cost, owner: ml-platform, reason: migration, until: 2026-12-31, files: ["big/**"]}
  - {rule_id: cost, owner: ml-platform, reason: later, until: 2027-01-31, files: ["big/huge.yaml"]}
  - {rule_id: fit, owner: ml-platform, reason: a new machine, until: 2026-12-31}
"""


def test_a_file_has_limits_in_words():
    policy = read_policies(written(ALL)).of("job.yaml")
    cost, increase, soft, hours, memory, _, confidence, method, rows = policy.message.limits
    assert cost.max_money == money_pb2.Money(currency_code="EUR", nanos=300_000_000)
    assert (cost.severity, cost.level) == (check_pb2.SEVERITY_ERROR, check_pb2.LIMIT_LEVEL_OVERRIDABLE)
    assert (increase.max_increase, increase.severity) == (0.2, check_pb2.SEVERITY_WARNING)
    assert soft.level == check_pb2.LIMIT_LEVEL_ADVISORY
    assert (hours.max, memory.max, rows.max) == (28800, 24 * 2**30, 100_000)
    assert confidence.min_confidence == evidence_pb2.CONFIDENCE_LEVEL_HIGH
    assert (list(method.names.allowed), list(method.names.denied)) == (["lora", "qlora"], ["f*"])
    assert policy.message.undecided == pb.UNDECIDED_POLICY_WARN
    assert policy.rule_ids[:3] == ("cost", "cost_increase", "cost.soft")


@pytest.mark.parametrize(
    ("file", "reasons"),
    [
        ("job.yaml", ["a new machine"]),
        ("big/a/b.yaml", ["migration", "a new machine"]),
        ("big/huge.yaml", ["later", "a new machine"]),
        ("<stdin>", ["a new machine"]),
        ("../big/huge.yaml", ["a new machine"]),
    ],
)
def test_a_waiver_is_for_its_files_and_of_two_the_longer_holds(file, reasons):
    policy = read_policies(written(ALL)).of(file)
    assert [waiver.reason for waiver in policy.message.waivers] == reasons
    place = policy.problem(f"policy.waivers[{len(reasons) - 1}].until", "is no day")
    assert place is not None
    assert place.position.line == 15


NAMED = """\
policies:
  research:
    files: ["research/**/*.yaml"]
    undecided: pass
    limits: [{metric: fit}]
  production:
    files: ["training/*.yaml", "serving/*.yaml"]
    limits:
      - {metric: cost, max: 1 EUR}
"""


def test_the_first_policy_whose_files_match_applies_and_without_one_nothing_passes(tmp_path):
    policies = read_policies(written(NAMED))
    assert policies.of("research/a/b.yaml").name == "research"
    assert policies.of(str(tmp_path / "training/a.yaml")).name == "production"
    for file in ("other/a.yaml", "training/deep/a.yaml", "<stdin>"):
        with pytest.raises(BadInput, match=r"no policy of policy\.yaml") as caught:
            policies.of(file)
        assert caught.value.reason == "POLICY_NOT_FOUND"
    assert policies.job_files() == ["research/**/*.yaml", "training/*.yaml", "serving/*.yaml"]
    everywhere = read_policies(written(NAMED + "  rest: {limits: [{metric: fit}]}\n"))
    assert everywhere.of("other/a.yaml").name == "rest"
    assert everywhere.of("<stdin>").name == "rest"


def test_globs_begin_at_the_folder_around_dot_finetree(tmp_path, monkeypatch):
    written(NAMED, DEFAULT_FILE)
    assert read_policies(None).of("training/a.yaml").name == "production"
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    policies = read_policies("../.finetree/policy.yaml")
    assert policies.of("../training/a.yaml").name == "production"
    assert policies.job_files()[0] == "../research/**/*.yaml"


def test_the_policy_of_the_repository_is_found_from_its_folders(tmp_path, monkeypatch):
    written(NAMED, DEFAULT_FILE)
    (tmp_path / ".git").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert find_policy_file() == "../../.finetree/policy.yaml"
    assert read_policies(None).file == require_policies(None).file == "../../.finetree/policy.yaml"


@pytest.mark.parametrize("name", [None, "gone.yaml"])
def test_a_policy_that_is_not_there_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="No such file" if name else r"no \.finetree/policy\.yaml in the") as caught:
        require_policies(name)
    assert caught.value.reason == "POLICY_FILE_UNREADABLE"
    assert "--policy FILE" in caught.value.remedy
    example = caught.value.remedy.split("`")[1]
    assert len(require_policies(written(example)).scoped[0].policy.message.limits) == 2


def test_options_replace_the_files_limit_of_the_same_metric_in_every_policy():
    five = money_pb2.Money(currency_code="USD", units=5)
    flags = LimitFlags(max_cost=five, max_energy_kwh=1)
    found = read_policies(written(ALL)).with_flags(flags, pb.UNDECIDED_POLICY_FAIL).of("job.yaml")
    assert found.rule_ids == (
        *("cost_increase", "duration_seconds", "device_bytes", "fit", "confidence", "method", "examples"),
        *("cost", "energy_kwh"),
    )
    assert (found.message.limits[7].max_money, found.message.undecided) == (five, pb.UNDECIDED_POLICY_FAIL)
    assert found.problem("policy.limits[7].max_money", "in another currency") is None
    assert found.flag("policy.limits[7].max_money") == "--max-cost"
    place = found.problem("policy.limits[2].max", "too small")
    assert place is not None
    assert place.position.line == 7
    named = read_policies(written(NAMED)).with_flags(flags)
    assert [named.of(file).rule_ids for file in ("research/a.yaml", "training/a.yaml")] == [
        ("fit", "cost", "energy_kwh"),
        ("cost", "energy_kwh"),
    ]


def test_a_violation_names_the_line_and_the_path_in_the_file():
    policy = read_policies(written(NAMED)).of("training/a.yaml")
    for path in ("policy.limits[0].max_money.currency_code", "policy.limits[0]", "policy.limits[0].max_money"):
        problem = policy.problem(path, "in another currency")
        assert problem is not None
        assert problem.position.line == 9
        assert problem.field_path.startswith("policies.production.limits[0]")


@pytest.mark.parametrize("flags", [LimitFlags(), LimitFlags(fits=False)])
def test_a_policy_without_limits_is_none(flags):
    with pytest.raises(BadInput, match="no limit is given") as caught:
        read_policies(None).with_flags(flags)
    assert caught.value.reason == "POLICY_EMPTY"
    assert "--policy" in caught.value.remedy


WAIVER = "{rule_id: fit, owner: a, reason: b, until: 2026-12-31}"


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("limits: []\n", "policy.yaml:1:9: limits: expected 1 to 16 limits, got 0"),
        ("limits: {metric: fit}\n", "limits: expected a list"),
        ("limit: []\n", "policy.yaml:1:1: limit: unknown setting; did you mean limits?"),
        ("limits: [{metric: fit}]\nlimits: [{metric: fit}]\n", "policy.yaml:2:1: limits: is given twice"),
        ("limits: [{max: 5 USD}]\n", "limits[0].metric: is missing"),
        ("limits:\n  - {metric: price, max: 5}\n", "policy.yaml:2:14: limits[0].metric: unknown value 'price'"),
        ("limits:\n  - {metric: cost}\n", "limits[0]: cost needs max or max_increase, such as max: 50 USD"),
        ("limits:\n  - {metric: cost, max: 5}\n", "policy.yaml:2:25: limits[0].max: expected an amount"),
        ("limits:\n  - {metric: cost, max: [1]}\n", "limits[0].max: expected text, got a list"),
        ("limits:\n  - {metric: cost, max_money: 5 USD}\n", "limits[0].max_money: unknown setting"),
        ("limits:\n  - {metric: cost, max: 5 USD, max_increase: 20%}\n", "limits[0]: cost takes one of max"),
        ("limits:\n  - {metric: fit, max: 5}\n", "limits[0].max: fit takes no bound"),
        ("limits:\n  - {metric: duration_seconds, max: 8}\n", "has no unit: write 8h"),
        ("limits:\n  - {metric: carbon_kg, max: .nan}\n", "limits[0].max: expected a number"),
        ("limits:\n  - {metric: cost, max_increase: 0.2}\n", "expected a share such as 20%"),
        ("limits:\n  - {metric: method, allowed: [qlorra]}\n", "limits[0].allowed[0]: no method is called 'qlorra'"),
        ("limits:\n  - {metric: model, denied: []}\n", "limits[0].denied: expected at least one"),
        ("limits: [{metric: fit}, {metric: fit}]\n", "limits[1]: 'fit' is the id of another limit too"),
        ("limits: [{metric: fit, rule_id: A b}]\n", "limits[0].rule_id: expected at most 64"),
        ("limits: [{metric: fit, severity: fatal}]\n", "limits[0].severity: unknown value 'fatal'; use one of deny"),
        ("limits: [{metric: fit, severity: deny, level: advisory}]\n", "an advisory limit cannot deny"),
        ("limits: [{metric: fit}]\nundecided: maybe\n", "policy.yaml:2:12: undecided: unknown value 'maybe'"),
        ("limits: [{metric: fit}]\nundecided:\n", "undecided: has no value"),
        (f"limits: [{{metric: fit}}]\nwaivers: [{WAIVER.replace('fit', 'cost')}]\n", "no limit has the id 'cost'"),
        (f"limits: [{{metric: fit}}]\nwaivers: [{WAIVER.replace('-12-31', '-02-30')}]\n", "expected a day such as"),
        (f"limits: [{{metric: fit}}]\nwaivers: [{WAIVER.replace('owner: a, ', '')}]\n", "waivers[0].owner: is missing"),
        ("policies: {}\n", "policies: expected 1 to 64 policies"),
        ("policies: {a: {files: [x]}}\n", "policies.a.limits: is missing"),
        ("policies: {a: {limits: [{metric: fit}]}}\nlimit: []\n", "limit: unknown setting"),
        (
            "policies: {a: {limits: [{metric: fit}]}}\nwaivers: []\n",
            "2:1: waivers: is a setting of each policy here; move",
        ),
        (
            "policies:\n  a: {limits: [{metric: fit}]}\n  b: {limits: [{metric: fit}]}\n",
            "policy.yaml:3:6: policies.b: never applies: the policy a before it",
        ),
        ("- a\n", "expected settings (key: value)"),
        ("a: [\n", "not YAML"),
        ("", "the file is empty"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_position(content, fact):
    with pytest.raises(BadInput) as caught:
        read_policies(written(content))
    error = caught.value
    assert error.reason == "POLICY_FILE_INVALID"
    assert fact in "\n".join(map(str, error.problems))


def test_a_file_without_an_end_is_no_policy():
    with pytest.raises(BadInput, match="policy file") as caught:
        read_policies("/dev/zero")
    assert caught.value.reason == "POLICY_FILE_INVALID"


def test_a_policy_file_that_is_not_there_is_named():
    with pytest.raises(BadInput, match=r"nowhere\.yaml") as caught:
        read_policies("nowhere.yaml")
    assert caught.value.reason == "POLICY_FILE_UNREADABLE"


def test_a_policy_of_a_file_is_accepted_by_the_contracts_rules():
    from finetree_runtime.server.validation import validate

    for content in (ALL, NAMED):
        for each in read_policies(written(content)).scoped:
            validate(each.policy.message)
    assert json_format.MessageToDict(read_policies(written(NAMED)).scoped[0].policy.message) == {
        "limits": [{"metric": "POLICY_METRIC_FIT"}],
        "undecided": "UNDECIDED_POLICY_PASS",
    }
