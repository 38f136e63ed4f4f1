# SPDX-License-Identifier: Apache-2.0
"""The reasons in the code of the services are those of the contract's ErrorReason, no more and no fewer.

A reason is what code passes as `reason` to an error or to a helper that makes one, the third part of a violation, and
the default of a parameter or class of that name.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from finetree_api.types.v1 import error_reason_pb2

ROOT = Path(__file__).parents[3]
REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
CONTRACT = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED"
}
AT_START = {"SettingsError"}
"""Errors that end a program before it serves; no client sees their reasons."""


@cache
def modules() -> dict[str, ast.Module]:
    files = sorted((ROOT / "services").rglob("finetree_*/**/*.py"))
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_every_reason_in_code_is_in_the_contract():
    unknown = sorted(f"{where}: {reason}" for reason, where in reasons() if reason not in CONTRACT)
    assert not unknown, "\n".join(unknown)


def test_every_reason_of_the_contract_is_in_code():
    missing = CONTRACT - {node.value for module in modules().values() for node in texts_of(module)}
    assert not missing


def test_reasons_are_found_where_they_are_passed():
    found = {reason for reason, _ in reasons()}
    assert {
        "MODEL_NOT_FOUND",
        "INVALID_REQUEST",
        "PREFIX_WITH_CHECKPOINTING",
        "MALFORMED_ROW",
        "OUT_OF_MEMORY",
    } <= found
    assert len(found) > len(CONTRACT) / 2


def reasons() -> Iterator[tuple[str, str]]:
    """Reasons in the code, each with the place where it is passed."""
    positions = reason_positions()
    for file, module in modules().items():
        for node in ast.walk(module):
            for value in values_of(node, positions):
                for reason in constants(value):
                    yield reason, f"{file}:{value.lineno}"


def values_of(node: ast.AST, positions: dict[str, int]) -> Iterator[ast.expr]:
    """Expressions of a node whose value is a reason."""
    if isinstance(node, ast.Call) and not is_of_the_sdk(node.func) and name_of(node.func) not in AT_START:
        yield from arguments_of(node, positions.get(name_of(node.func)))
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args]
        defaults = [None] * (len(arguments) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
        pairs = zip([*arguments, *node.args.kwonlyargs], defaults, strict=True)
        yield from (default for argument, default in pairs if argument.arg == "reason" and default is not None)
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (node.value for target in targets if name_of(target) == "reason")


def arguments_of(call: ast.Call, position: int | None) -> Iterator[ast.expr]:
    """Reasons among the arguments of a call, those of violations included."""
    if position is not None and position < len(call.args):
        yield call.args[position]
    for keyword in call.keywords:
        if keyword.arg == "reason":
            yield keyword.value
        if keyword.arg == "violations":
            tuples = (each for each in ast.walk(keyword.value) if isinstance(each, ast.Tuple))
            yield from (each.elts[2] for each in tuples if len(each.elts) == 3)


@cache
def reason_positions() -> dict[str, int]:
    """Positions of the parameter `reason`, by the name of the function or class that takes it."""
    positions: dict[str, int] = {}
    bases: dict[str, list[str]] = {}
    for module in modules().values():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [name_of(base) for base in node.bases]
                fields = [name_of(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]
                inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                names = [each.arg for each in inits[0].args.args[1:]] if inits else fields
                if "reason" in names:
                    positions[node.name] = names.index("reason")
            elif isinstance(node, ast.FunctionDef) and node.name != "__init__":
                names = [each.arg for each in node.args.args if each.arg not in ("self", "cls")]
                if "reason" in names:
                    positions[node.name] = names.index("reason")
    for _ in range(5):  # deeper than any tree of errors
        for name, parents in bases.items():
            inherited = [positions[parent] for parent in parents if parent in positions]
            if inherited:
                positions.setdefault(name, inherited[0])
    return positions


def constants(value: ast.expr) -> Iterator[str]:
    """Reasons that an expression may have as its value: a constant, or one of two."""
    branches = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
    for branch in branches:
        if isinstance(branch, ast.Constant) and isinstance(branch.value, str) and REASON.fullmatch(branch.value):
            yield branch.value


def texts_of(module: ast.Module) -> Iterator[ast.Constant]:
    """Strings of a module that are no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def name_of(node: ast.AST) -> str:
    return getattr(node, "attr", "") or getattr(node, "id", "")


def is_of_the_sdk(function: ast.expr) -> bool:
    """Whether an error is the SDK's own: it never leaves the service."""
    return isinstance(function, ast.Attribute) and name_of(function.value) == "finetree"
