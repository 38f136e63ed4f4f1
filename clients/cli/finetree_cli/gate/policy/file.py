# SPDX-License-Identifier: Apache-2.0
"""Policy files: one policy, or several by name, as strict YAML."""

import hashlib
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.bounds import KINDS, percent
from finetree_cli.gate.policy.examples import read_examples
from finetree_cli.gate.policy.policy import Policies, Policy, ScopedPolicy, ScopedWaiver, rule_id
from finetree_cli.gate.policy.reading import SectionReader, join
from finetree_cli.gate.repository import FOLDER, PLACES, find_upwards
from finetree_cli.jobfile.job import compose, read_text
from finetree_cli.options.types import METHODS

if TYPE_CHECKING:
    from yaml.nodes import Node

DEFAULT_FILE = f"{FOLDER}/policy.yaml"
"""Policy of a repository, from its top."""
SEVERITIES = {"deny": "ERROR", "warn": "WARNING", "info": "INFO"}
"""Words of a policy file for the contract's severities."""
LEVELS = ("advisory", "overridable", "hard")
UNDECIDED = ("fail", "warn", "pass")
CONFIDENCES = ("low", "medium", "high")
OF_LIMIT = ("metric", "severity", "level", "rule_id")
"""Keys of every limit."""
OF_WAIVER = ("rule_id", "owner", "reason", "until")
OF_POLICY = ("files", "limits", "undecided", "waivers")
MOST = {"limits": 16, "waivers": 256, "policies": 64}
"""Most elements of a list in the file; the contract has no more limits."""
_REMEDY = (
    "name a policy with --policy FILE, or write one: `limits: [{metric: fit}, {metric: cost, max: 50 USD}]` is a whole "
    "policy, and `finetree schema policy` prints every key"
)
_RULE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def read_policies(name: str | None) -> Policies:
    """Read a policy file, without a name that of the repository if there is one; else one policy without limits.

    Raises:
        BadInput: The file cannot be read or is no policy file; each problem has file, line, column and path.
    """
    if name is None:
        name = find_policy_file()
    if name is None:
        return Policies((ScopedPolicy(Policy(check_plan_pb2.PlanPolicy()), ()),))
    try:
        file, text = read_text(name)
        root = compose(text, file)
    except BadInput as error:
        reason = error.reason.replace("JOB_", "POLICY_")
        said = error.message.replace("no job file", "no policy file")
        remedy = _REMEDY if reason == "POLICY_FILE_UNREADABLE" else ""
        raise BadInput(said, remedy=remedy, reason=reason, problems=error.problems) from error
    reader = SectionReader(file)
    folder = _folder(file)
    found = _policies(reader, root, folder)
    if reader.problems:
        raise BadInput(f"{file} is no policy", reason="POLICY_FILE_INVALID", problems=reader.problems)
    return replace(found, file=file, sha256=hashlib.sha256(text.encode()).hexdigest(), folder=folder)


def require_policies(name: str | None) -> Policies:
    """Read a policy file, without a name that of the repository. Raises BadInput, also where there is none."""
    file = name or find_policy_file()
    if file is None:
        raise BadInput(f"no {DEFAULT_FILE} in {PLACES}", remedy=_REMEDY, reason="POLICY_FILE_UNREADABLE")
    return read_policies(file)


def find_policy_file() -> str | None:
    """Return the nearest `DEFAULT_FILE`, as `find_upwards` does."""
    return find_upwards(DEFAULT_FILE)


def file_sha256(name: str) -> str:
    """Hash the text of a policy file as its report names it. Raises BadInput for one that cannot be read."""
    return hashlib.sha256(read_text(name)[1].encode()).hexdigest()


def _folder(file: str) -> Path:
    """Folder from which the paths in a policy file begin: its own, or the one around .finetree."""
    folder = Path(file).parent
    if folder.absolute().name != FOLDER:
        return folder
    return folder.parent if folder.name == FOLDER else folder / ".."


def _policies(reader: SectionReader, root: "Node", folder: Path) -> Policies:
    """Read the top level: `policies` by name, or the settings of one policy."""
    from yaml.nodes import MappingNode

    several = isinstance(root, MappingNode) and any(key.value == "policies" for key, _ in root.value)
    known = ("policies", "examples") if several else (*OF_POLICY, "examples")
    of_policy = OF_POLICY if several else ()
    values = reader.keys(root, "", known=known, required=() if several else ("limits",), of_policy=of_policy)
    scoped = []
    if several and "policies" in values:
        named = reader.keys(values["policies"], "policies", known=None)
        if not named or len(named) > MOST["policies"]:
            reader.report(values["policies"], "policies", f"expected 1 to {MOST['policies']} policies by name")
        for name, node in named.items():
            path = f"policies.{name}"
            inside = reader.keys(node, path, known=OF_POLICY, required=("limits",))
            scoped.append(_policy(reader, inside, name=name, path=path))
            if len(scoped) > 1 and not scoped[-2].files:
                text = f"never applies: the policy {scoped[-2].policy.name} before it is for every job file"
                reader.report(node, path, text)
    elif not several:
        scoped.append(_policy(reader, values, name="", path=""))
    rules = {each.policy.name: each.policy.rule_ids for each in scoped}
    found = read_examples(reader, values["examples"], rules, folder=folder) if "examples" in values else ()
    return Policies(tuple(scoped), examples=found)


def _policy(reader: SectionReader, values: "dict[str, Node]", *, name: str, path: str) -> ScopedPolicy:
    """Read one policy from the values of its keys."""
    message = check_plan_pb2.PlanPolicy()
    if "limits" in values:
        message.limits.extend(_limits(reader, values["limits"], join(path, "limits")))
    if "undecided" in values:
        word = reader.word(values["undecided"], join(path, "undecided"), UNDECIDED)
        if word is not None:
            message.undecided = check_plan_pb2.UndecidedPolicy.Value(f"UNDECIDED_POLICY_{word.upper()}")
    files = reader.texts(values["files"], join(path, "files")) if "files" in values else ()
    prefix = f"{path}." if path else ""
    # Positions by the path in the message: the bound's field there stands under a key of its own here.
    positions = {
        place.removeprefix(prefix): found for place, found in reader.positions.items() if place.startswith(prefix)
    }
    policy = Policy(message, file=reader.file, name=name, positions=positions, prefix=prefix)
    waivers = _waivers(reader, values["waivers"], join(path, "waivers"), policy) if "waivers" in values else ()
    positions.update({each.path: reader.positions[prefix + each.path] for each in waivers})
    return ScopedPolicy(policy, files, waivers)


def _limits(reader: SectionReader, node: "Node", path: str) -> list[check_plan_pb2.PolicyLimit]:
    """Read the limits of a policy; two with one id are reported."""
    items = reader.items(node, path)
    if not 1 <= len(items) <= MOST["limits"]:
        reader.report(node, path, f"expected 1 to {MOST['limits']} limits, got {len(items)}")
    limits: list[check_plan_pb2.PolicyLimit] = []
    seen: set[str] = set()
    for item, at in items:
        limit = _limit(reader, item, at)
        if limit.metric and rule_id(limit) in seen:
            reader.report(item, at, f"{rule_id(limit)!r} is the id of another limit too; give one of them a rule_id")
        seen.add(rule_id(limit))
        limits.append(limit)
    return limits


def _limit(reader: SectionReader, node: "Node", path: str) -> check_plan_pb2.PolicyLimit:
    """Read one limit; what is wrong in it is reported and left out."""
    limit = check_plan_pb2.PolicyLimit()
    every = tuple(dict.fromkeys(key for kind in KINDS.values() for key in kind.keys))
    values = reader.keys(node, path, known=(*OF_LIMIT, *every), required=("metric",))
    metric = reader.word(values["metric"], join(path, "metric"), tuple(KINDS)) if "metric" in values else None
    if metric is None:
        return limit
    limit.metric = check_plan_pb2.PolicyMetric.Value(f"POLICY_METRIC_{metric.upper()}")
    if "severity" in values and (word := reader.word(values["severity"], join(path, "severity"), tuple(SEVERITIES))):
        limit.severity = check_pb2.Severity.Value(f"SEVERITY_{SEVERITIES[word]}")
    if "level" in values and (word := reader.word(values["level"], join(path, "level"), LEVELS)):
        limit.level = check_pb2.LimitLevel.Value(f"LIMIT_LEVEL_{word.upper()}")
        if word == "advisory" and limit.severity == check_pb2.SEVERITY_ERROR:
            reader.report(values["level"], join(path, "level"), "an advisory limit cannot deny; leave severity out")
    if "rule_id" in values:
        limit.rule_id = _rule_id(reader, values["rule_id"], join(path, "rule_id"))
    _bound(reader, values, metric, limit=limit, node=node, path=path)
    return limit


def _rule_id(reader: SectionReader, node: "Node", path: str) -> str:
    text = reader.text(node, path) or ""
    if text and _RULE_ID.fullmatch(text) is None:
        reader.report(node, path, "expected at most 64 small letters, digits, '.', '_' and '-'")
        return ""
    return text


def _bound(
    reader: SectionReader,
    values: "dict[str, Node]",
    metric: str,
    *,
    limit: check_plan_pb2.PolicyLimit,
    node: "Node",
    path: str,
) -> None:
    """Read the bound that the metric takes, and report any other."""
    kind = KINDS[metric]
    given = [key for key in values if key not in OF_LIMIT]
    wrong = [key for key in given if key not in kind.keys]
    for key in wrong:
        takes = " or ".join(kind.keys) or "no bound"
        reader.report(values[key], join(path, key), f"{metric} takes {takes}")
    both = kind.keys == ("max", "max_increase") and len(given) > 1
    if wrong or (kind.keys and not given) or both:
        if not wrong:
            what = f"{' or '.join(kind.keys)}, such as {kind.keys[0]}: {kind.example}"
            reader.report(node, path, f"{metric} takes one of {what}" if both else f"{metric} needs {what}")
        return
    for key in given:
        _set_bound(reader, values[key], join(path, key), key=key, metric=metric, limit=limit)


def _set_bound(
    reader: SectionReader, node: "Node", path: str, *, key: str, metric: str, limit: check_plan_pb2.PolicyLimit
) -> None:
    if key in ("allowed", "denied"):
        names = reader.texts(node, path)
        getattr(limit.names, key).extend(names)
        if not names:
            reader.report(node, path, "expected at least one name or pattern")
        elif metric == "method":
            _refuse_unknown_methods(reader, node, path)
        return
    if key == "min":
        if word := reader.word(node, path, CONFIDENCES):
            limit.min_confidence = evidence_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{word.upper()}")
        return
    text = reader.text(node, path)
    parse: Any = percent if key == "max_increase" else KINDS[metric].parse
    if text is None:
        return
    try:
        value = parse(text)
    except ValueError as error:
        reader.report(node, path, str(error))
        return
    field = key if isinstance(value, float) else "max_money"
    if isinstance(value, float):
        setattr(limit, field, value)
    else:
        limit.max_money.CopyFrom(value)
    reader.positions[f"{path.rpartition('.')[0]}.{field}"] = reader.positions[path]


def _refuse_unknown_methods(reader: SectionReader, node: "Node", path: str) -> None:
    """Report a pattern that no method matches: a misspelled one would deny nothing."""
    from fnmatch import fnmatchcase

    for item, at in reader.items(node, path):
        if not any(fnmatchcase(method, str(item.value).lower()) for method in METHODS):
            reader.report(item, at, f"no method is called {item.value!r}; methods are {', '.join(METHODS)}")


def _waivers(reader: SectionReader, node: "Node", path: str, policy: Policy) -> tuple[ScopedWaiver, ...]:
    found = []
    items = reader.items(node, path)
    if len(items) > MOST["waivers"]:
        reader.report(node, path, f"expected at most {MOST['waivers']} waivers")
    for item, at in items:
        values = reader.keys(item, at, known=(*OF_WAIVER, "files"), required=OF_WAIVER)
        texts = {key: reader.text(values[key], join(at, key)) or "" for key in OF_WAIVER if key in values}
        rule, until = texts.get("rule_id", ""), texts.get("until", "")
        if rule and rule not in policy.rule_ids:
            known = ", ".join(policy.rule_ids)
            reader.report(values["rule_id"], join(at, "rule_id"), f"no limit has the id {rule!r}; there are {known}")
        if until and not _is_day(until):
            reader.report(values["until"], join(at, "until"), f"expected a day such as 2026-12-31, got {until!r}")
        files = reader.texts(values["files"], join(at, "files")) if "files" in values else ()
        prefix = policy.prefix
        found.append(ScopedWaiver(check_pb2.Waiver(**texts), files, at.removeprefix(prefix)))
    return tuple(found)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
