# SPDX-License-Identifier: Apache-2.0
"""No program of the suite reads or writes a pickle: reading one runs whatever code is in it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "torch.save", "numpy.load", "np.load", "numpy.save", "np.save"}


def used(tree: ast.AST) -> set[str]:
    """What a program imports, and what it calls as module.function."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).partition(".")[0]}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found


def test_nothing_that_runs_knows_how_to_read_a_pickle():
    files = [file for room in ("services", "clients") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 200
    for file in files:
        assert not used(ast.parse(file.read_text(encoding="utf-8"))) & (MODULES | CALLS), file
