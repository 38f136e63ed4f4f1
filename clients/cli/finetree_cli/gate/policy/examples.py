# SPDX-License-Identifier: Apache-2.0
"""Examples in a policy file: jobs with the verdicts that its policies must give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, Position
from finetree_cli.gate.policy.reading import SectionReader, join
from finetree_cli.jobfile.job import JobFile, job_of, read_job

if TYPE_CHECKING:
    from yaml.nodes import Node

VERDICTS = ("pass", "warn", "fail", "undecided", "waived")
OF_CHECKS = ("pass", "fail", "undecided", "waived")
"""Verdicts of a single limit."""
KNOWN = ("name", "job", "file", "policy", "verdict", "checks", "base", "as_of")
MOST_EXAMPLES = 256


@dataclass(frozen=True, slots=True)
class Example:
    """A job and what the policy must say of it."""

    name: str
    job: JobFile
    position: Position
    """Where it stands in the policy file."""
    file: str = ""
    """Path of the job file whose policy and waivers apply; empty where `policy` names one, or there is only one."""
    policy: str = ""
    verdict: str = ""
    """Expected verdict of the whole, in capitals; empty where none is stated."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """Expected verdicts by rule id, in capitals."""
    base: JobFile | None = None
    """The job before the change."""
    as_of: str = ""
    """Day for which waivers are judged; empty for the day of the test."""


def read_examples(
    reader: SectionReader, node: "Node", policies: Mapping[str, Sequence[str]], *, folder: Path
) -> tuple[Example, ...]:
    """Read the examples of a policy file.

    Args:
        reader: reads the file.
        node: the list of examples.
        policies: rule ids of each policy by its name.
        folder: where paths begin.
    """
    items = reader.items(node, "examples")
    if len(items) > MOST_EXAMPLES:
        reader.report(node, "examples", f"expected at most {MOST_EXAMPLES} examples")
        return ()
    found = [_example(reader, item, at, policies=policies, folder=folder) for item, at in items]
    return tuple(example for example in found if example is not None)


def _example(
    reader: SectionReader, node: "Node", path: str, *, policies: Mapping[str, Sequence[str]], folder: Path
) -> Example | None:
    values = reader.keys(node, path, known=KNOWN, required=("job",))
    texts = {
        key: reader.text(values[key], join(path, key)) or ""
        for key in ("name", "file", "policy", "as_of")
        if key in values
    }
    job = _job(reader, values["job"], join(path, "job"), folder) if "job" in values else None
    base = _job(reader, values["base"], join(path, "base"), folder) if "base" in values else None
    verdict = reader.word(values["verdict"], join(path, "verdict"), VERDICTS) if "verdict" in values else None
    checks = _checks(reader, values["checks"], join(path, "checks")) if "checks" in values else {}
    if not verdict and not checks and values:
        reader.report(node, path, "expects nothing; give a verdict of the whole, or of limits under `checks`")
    name = texts.get("policy", "")
    file = texts.get("file", "") or _file_of(values.get("job"))
    if name and name not in policies:
        reader.report(values["policy"], join(path, "policy"), f"no policy is called {name!r}; {_listed(policies)}")
    if not name and not file and "" not in policies:
        reader.report(node, path, "names no policy; give `policy`, or the job's `file`")
    for rule_id in checks:
        if not any(rule_id in rule_ids for key, rule_ids in policies.items() if name in ("", key)):
            reader.report(values["checks"], join(path, f"checks.{rule_id}"), "no limit has this id")
    if job is None:
        return None
    return Example(
        name=texts.get("name") or f"example {path[len('examples[') : -1]}",
        job=job,
        position=reader.position(node),
        file=str(folder / file) if file else "",
        policy=name,
        verdict=(verdict or "").upper(),
        checks=checks,
        base=base,
        as_of=texts.get("as_of", ""),
    )


def _job(reader: SectionReader, node: "Node", path: str, folder: Path) -> JobFile | None:
    """Read a job that stands in the example, or in a file."""
    from yaml.nodes import ScalarNode

    try:
        named = isinstance(node, ScalarNode)
        job = read_job(str(folder / str(node.value))) if named else job_of(node, reader.file)
        _ = job.spec  # refused for a job that does not train
    except BadInput as error:
        for problem in error.problems:
            reader.problems.append(problem)
        if not error.problems:
            reader.report(node, path, error.message)
        return None
    return job


def _checks(reader: SectionReader, node: "Node", path: str) -> dict[str, str]:
    """Read expected verdicts by rule id."""
    values = reader.keys(node, path, known=None)
    words = {rule_id: reader.word(value, join(path, rule_id), OF_CHECKS) for rule_id, value in values.items()}
    return {rule_id: word.upper() for rule_id, word in words.items() if word is not None}


def _file_of(node: "Node | None") -> str:
    """Path of an example's job; "" for a job that stands in the example."""
    from yaml.nodes import ScalarNode

    return str(node.value) if isinstance(node, ScalarNode) else ""


def _listed(policies: Mapping[str, Sequence[str]]) -> str:
    names = [name for name in policies if name]
    return f"policies are {', '.join(names)}" if names else "the file has one policy, without a name"
