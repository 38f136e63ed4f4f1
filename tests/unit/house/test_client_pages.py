# SPDX-License-Identifier: Apache-2.0
"""The pages on clients in other languages show the code that tests/conformance runs, and its settings."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = {"typescript": ("ts", "src/*.ts"), "go": ("go", "*.go")}
"""The language of a page's blocks, and the files that have the same code."""


def page(name: str) -> str:
    return (ROOT / f"docs/clients/{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_every_piece_of_code_is_one_that_runs(name):
    language, pattern = PAGES[name]
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests/conformance" / name).glob(pattern)]
    shown = blocks(name, language)
    assert len(shown) >= 8
    assert [block for block in shown if not any(block in source for source in sources)] == []


@pytest.mark.parametrize("name", PAGES)
def test_stubs_are_made_as_the_page_says(name):
    (shown,) = blocks(name, "yaml")
    used = (ROOT / "tests/conformance" / name / "buf.gen.yaml").read_text(encoding="utf-8")
    assert shown.replace("finetree/protos", "../../../protos") == used


def test_packages_have_the_versions_that_are_tested():
    package = json.loads((ROOT / "tests/conformance/typescript/package.json").read_text(encoding="utf-8"))
    pinned = package["dependencies"] | package["devDependencies"]
    assert dict(re.findall(r" (@?[\w/-]+)@([\d.]+)", page("typescript"))) == pinned


@pytest.mark.parametrize("name", PAGES)
def test_the_size_that_the_page_states_is_about_right(name):
    files = (ROOT / "tests/conformance" / name).glob(PAGES[name][1])
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    (stated,) = re.findall(r"a whole client in (\d+) lines", page(name))
    assert 0.8 * lines < int(stated) < 1.2 * lines


def test_no_lock_names_a_registry():
    lock = json.loads((ROOT / "tests/conformance/typescript/package-lock.json").read_text(encoding="utf-8"))
    assert all("integrity" in entry for path, entry in lock["packages"].items() if path)
    assert not [path for path, entry in lock["packages"].items() if "resolved" in entry]
