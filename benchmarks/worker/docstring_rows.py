# SPDX-License-Identifier: Apache-2.0
"""Real rows for the benchmarks of the worker: Python's own functions and classes, and what their authors say of them.

The prompt is a definition from the standard library without its docstring, the completion its docstring: text that
people wrote, on every machine that has Python, of a realistic spread of lengths (a long tail of long ones). The rows
hang on the Python version alone; results name the file's hash.
"""

import ast
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = (
    "argparse", "ast", "asyncio/streams", "calendar", "cmd", "collections/__init__", "configparser", "contextlib",
    "csv", "datetime", "difflib", "email/message", "enum", "fractions", "functools", "heapq", "http/client",
    "imaplib", "inspect", "ipaddress", "json/__init__", "logging/__init__", "mailbox", "multiprocessing/pool",
    "optparse", "os", "pathlib", "random", "shutil", "smtplib", "ssl", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "typing", "unittest/case", "urllib/parse", "urllib/request", "zipfile",
)  # fmt: skip
"""Of the standard library; one that this Python does not have is left out."""
SHORTEST, LONGEST = 40, 4000
"""Characters of a docstring that makes a row."""
_SHOWN_LINES = 14  # of a definition in the prompt

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rows(count: int) -> list[dict[str, Any]]:
    """`count` chats, in an order and a choice that a hash of their text decides. Raises ValueError for too few."""
    found = {row["messages"][0]["content"]: row for name in MODULES for row in _rows_of(name)}
    if len(found) < count:
        message = f"this Python's library gives {len(found)} rows, {count} are asked for"
        raise ValueError(message)
    return [found[question] for question in sorted(found, key=_hashed)[:count]]


def write(path: Path, chats: list[dict[str, Any]]) -> str:
    """Write the chats as JSONL; returns the file's sha256."""
    text = "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def sentences() -> list[str]:
    """Different sentences of the docstrings, of 20 to 200 characters, in an order that a hash of their text decides."""
    texts = (row["messages"][-1]["content"] for name in MODULES for row in _rows_of(name))
    cut = (sentence for text in texts for sentence in re.split(r"(?<=[.?!])\s+", " ".join(text.split())))
    return sorted({sentence for sentence in cut if 20 <= len(sentence) <= 200}, key=_hashed)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rows_of(name: str) -> Iterator[dict[str, Any]]:
    path = Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py"
    if not path.is_file():
        return
    source = path.read_text(encoding="utf-8", errors="replace")
    module, lines = name.removesuffix("/__init__").replace("/", "."), source.splitlines()
    for node in ast.walk(ast.parse(source)):
        answer = ast.get_docstring(node) if isinstance(node, Definition) else None
        if answer is None or not SHORTEST <= len(answer) <= LONGEST:
            continue
        question = f"Write the docstring of this definition in Python's module {module}.\n\n{_shown(node, lines)}"
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _shown(node: Definition, lines: list[str]) -> str:
    """The definition's first lines, its docstring left out."""
    docstring = node.body[0]
    left = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno or 0 : node.end_lineno]
    return "\n".join(line.rstrip() for line in left[:_SHOWN_LINES] if line.strip())
