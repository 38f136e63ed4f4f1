# SPDX-License-Identifier: Apache-2.0
"""Examples in a policy file: what they hold, and what is wrong with its place."""

from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.file import read_policies

HEAD = "limits: [{metric: fit}, {metric: method, denied: [full]}]\nexamples:\n"
JOB = "{model: {name: a}, lora: {}}"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(content: str, name: str = "policy.yaml") -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(content, encoding="utf-8")
    return name


def test_a_job_is_inline_or_in_a_file_beside_the_policy():
    written("model: {name: b}\nfull: {}\n", "sub/b.yaml")
    text = f"  - {{name: one, job: {JOB}, checks: {{fit: pass}}, as_of: 2026-12-31, base: {JOB}}}\n"
    first, second = read_policies(
        written(f"{HEAD}{text}  - {{job: b.yaml, verdict: FAIL}}\n", "sub/policy.yaml")
    ).examples
    assert (first.name, first.job.spec.model.name, first.file, first.as_of) == ("one", "a", "", "2026-12-31")
    assert (dict(first.checks), first.verdict, first.position.line) == ({"fit": "PASS"}, "", 3)
    assert first.base is not None
    assert (second.name, second.verdict, second.file) == ("example 1", "FAIL", "sub/b.yaml")
    assert second.job.spec.WhichOneof("method") == "full"


def test_paths_begin_at_the_folder_around_dot_finetree():
    written("model: {name: b}\nfull: {}\n", "sub/b.yaml")
    (example,) = read_policies(
        written(f"{HEAD}  - {{job: sub/b.yaml, verdict: fail}}\n", ".finetree/policy.yaml")
    ).examples
    assert example.file == "sub/b.yaml"


@pytest.mark.parametrize(
    ("example", "fact"),
    [
        ("{verdict: pass}", "examples[0].job: is missing"),
        (f"{{job: {JOB}}}", "examples[0]: expects nothing"),
        (f"{{job: {JOB}, verdict: maybe}}", "unknown value 'maybe'; use one of pass, warn"),
        (f"{{job: {JOB}, checks: {{fit: warn}}}}", "examples[0].checks.fit: unknown value 'warn'"),
        (f"{{job: {JOB}, checks: {{cost: pass}}}}", "checks.cost: no limit has this id"),
        (f"{{job: {JOB}, verdict: pass, policy: research}}", "no policy is called 'research'"),
        (f"{{job: {JOB}, verdict: pass, jobs: 1}}", "unknown setting; did you mean job?"),
        ("{job: nowhere.yaml, verdict: pass}", "examples[0].job: nowhere.yaml: No such file"),
        ("{job: {model: {nam: a}}, verdict: pass}", "policy.yaml:3:20: model.nam: unknown setting; did you mean name?"),
        ("{job: {export: {}}, verdict: pass}", "the job does not train"),
    ],
)
def test_an_invalid_example_is_refused_with_its_position(example, fact):
    with pytest.raises(BadInput) as caught:
        read_policies(written(f"{HEAD}  - {example}\n"))
    assert fact in "\n".join(map(str, caught.value.problems))


def test_of_several_policies_an_example_names_one_or_a_job_file():
    named = f"policies:\n  a: {{files: [x/*], limits: [{{metric: fit}}]}}\nexamples:\n  - {{job: {JOB}, verdict: pass"
    with pytest.raises(BadInput) as caught:
        read_policies(written(named + "}\n"))
    assert "names no policy" in str(caught.value.problems[0])
    for part in ("policy: a", "file: x/y.yaml"):
        (example,) = read_policies(written(f"{named}, {part}}}\n")).examples
        assert (example.policy, example.file) == (("a", "") if "policy" in part else ("", "x/y.yaml"))
