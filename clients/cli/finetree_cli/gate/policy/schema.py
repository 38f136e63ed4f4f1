# SPDX-License-Identifier: Apache-2.0
"""JSON Schema of policy files, for editors."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetree_cli.gate.policy import file
from finetree_cli.gate.policy.bounds import KINDS, PERCENT_PATTERN, Kind
from finetree_cli.gate.policy.examples import MOST_EXAMPLES, OF_CHECKS, VERDICTS
from finetree_cli.gate.policy.reading import LONGEST
from finetree_cli.options.types import METHODS

JsonObject = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
RULE_ID = "^[a-z0-9][a-z0-9._-]{0,63}$"
DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def policy_schema(job: JsonObject) -> JsonObject:
    """Return the JSON Schema (draft 2020-12) of a policy file; `job` is that of the job files in its examples."""
    body = {
        "files": _texts("Globs of the job files that it is for, from the folder of the policy file. Unset: all."),
        "limits": _limits(),
        "undecided": _word(file.UNDECIDED, "What becomes of a job where a limit is undecided. Unset: fail."),
        "waivers": {"type": "array", "items": _waiver(), "maxItems": file.MOST["waivers"]},
    }
    inside = {name: value for name, value in job.items() if name not in ("$schema", "$defs", "title")}
    examples = {"type": "array", "items": {"$ref": "#/$defs/Example"}, "maxItems": MOST_EXAMPLES}
    one = _object({**body, "examples": examples}, required=("limits",))
    several = _object(
        {
            "policies": {
                "description": "Policies by name; the first one whose files match a job applies to it.",
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/Policy"},
                "minProperties": 1,
                "maxProperties": file.MOST["policies"],
            },
            "examples": examples,
        },
        required=("policies",),
    )
    return {
        "$schema": DRAFT,
        "title": "finetree policy file",
        "description": "Limits that jobs must keep: of one policy, or of several by name.",
        "type": "object",
        "if": {"required": ["policies"]},
        "then": several,
        "else": one,
        "$defs": {
            **job["$defs"],
            "Policy": _object(body, required=("limits",)),
            "Job": {"anyOf": [_text("Path of a job file."), inside]},
            "Example": _example(),
        },
    }


def _limits() -> JsonObject:
    kinds = [_limit(metric, kind) for metric, kind in KINDS.items()]
    return {
        "description": "Limits that a job must keep.",
        "type": "array",
        "minItems": 1,
        "maxItems": file.MOST["limits"],
        "items": {
            "type": "object",
            "required": ["metric"],
            "properties": {"metric": {"enum": list(KINDS)}},
            "allOf": [
                {"if": {"properties": {"metric": {"const": metric}}}, "then": kind}
                for metric, kind in zip(KINDS, kinds, strict=True)
            ],
        },
    }


def _limit(metric: str, kind: Kind) -> JsonObject:
    """Describe a limit of one metric."""
    properties: JsonObject = {
        "metric": {"const": metric},
        "severity": _word(tuple(file.SEVERITIES), "What a failure means. Unset: deny."),
        "level": _word(file.LEVELS, "Who may lift it. Unset: hard; advisory where the severity is below deny."),
        "rule_id": {"description": "Id of its check. Unset: the metric.", "type": "string", "pattern": RULE_ID},
    }
    names: JsonObject = {"type": "array", "minItems": 1, "maxItems": 64, "items": _text("A name or a pattern.")}
    if metric == "method":
        names["examples"] = [list(METHODS[:2])]
    bounds: dict[str, JsonObject] = {
        "max": {"description": "Largest value that passes.", "type": ["string", "number"], "pattern": kind.pattern},
        "max_increase": {
            "description": "Largest increase over the base that passes, such as 20%.",
            "type": "string",
            "pattern": PERCENT_PATTERN,
        },
        "min": _word(file.CONFIDENCES, "Lowest confidence that passes."),
        "allowed": {"description": "Names one of which must match.", **names},
        "denied": {"description": "Names none of which may match.", **names},
    }
    if metric in ("cost", "monthly_cost", "duration_seconds", "device_bytes"):
        bounds["max"]["type"] = "string"
    bounds["max"]["examples"] = [kind.example]
    properties |= {key: bounds[key] for key in kind.keys}
    found = _object(properties, required=("metric",))
    if kind.keys == ("max", "max_increase"):
        found["oneOf"] = [{"required": [key]} for key in kind.keys]
    elif kind.keys:
        found["anyOf"] = [{"required": [key]} for key in kind.keys]
    return found


def _waiver() -> JsonObject:
    properties = {
        "rule_id": _text("The limit that it lifts, by the id of its check."),
        "owner": _text("Who answers for it."),
        "reason": _text("Why it is granted."),
        "until": {"description": "Last day on which it holds.", "type": "string", "pattern": DAY},
        "files": _texts("Globs of the job files that it is for. Unset: all of the policy."),
    }
    return _object(properties, required=file.OF_WAIVER)


def _example() -> JsonObject:
    found = _object(
        {
            "name": _text("What it shows."),
            "job": {"$ref": "#/$defs/Job", "description": "A job, or the path of a job file."},
            "file": _text("Path of the job file that an inline job stands for: its policy and waivers apply."),
            "policy": _text("Name of the policy that applies."),
            "verdict": _word(VERDICTS, "Verdict that the whole must have."),
            "checks": {
                "description": "Verdicts that limits must have, by the id of their check.",
                "type": "object",
                "additionalProperties": {"enum": [*OF_CHECKS, *map(str.upper, OF_CHECKS)]},
            },
            "base": {"$ref": "#/$defs/Job", "description": "The job before the change."},
            "as_of": {"description": "Day for which waivers are judged.", "type": "string", "pattern": DAY},
        },
        required=("job",),
    )
    return {**found, "anyOf": [{"required": ["verdict"]}, {"required": ["checks"]}]}


def _object(properties: Mapping[str, Any], *, required: Sequence[str]) -> JsonObject:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _word(words: Sequence[str], description: str) -> JsonObject:
    return {"description": description, "enum": [*words, *(word.upper() for word in words)]}


def _text(description: str) -> JsonObject:
    return {"description": description, "type": "string", "minLength": 1, "maxLength": LONGEST}


def _texts(description: str) -> JsonObject:
    return {"description": description, "type": "array", "items": _text("A glob, such as training/*.yaml.")}
