# SPDX-License-Identifier: Apache-2.0
"""The reference in docs/sdk: what the docstrings say today, and every public name."""

import importlib.util
import inspect
import re
from pathlib import Path

import finetree
import finetree.testing
import pytest

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs/sdk"


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "clients/python/reference.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pages: dict[str, str] = script.pages()
    return pages


def test_the_pages_are_those_of_the_docstrings(written):
    assert {path.name for path in PAGES.iterdir()} == set(written)
    old = [name for name, page in written.items() if (PAGES / name).read_text(encoding="utf-8") != page]
    assert old == [], "run `make reference`"


def headings(written: dict[str, str]) -> set[str]:
    return {found for page in written.values() for found in re.findall(r"(?m)^##+ (\S+)$", page)}


def test_every_public_name_is_there(written):
    public = [name for name in finetree.__all__ if name != "__version__"] + list(finetree.testing.__all__)
    assert set(public) - headings(written) == set()
    assert "finetree.__version__" in written["README.md"]


@pytest.mark.parametrize("name", ["Client", "Job", "EventStream", "Pages"])
def test_every_public_method_is_there_with_its_docstring(written, name):
    cls = getattr(finetree, name)
    for member, value in inspect.getmembers_static(cls):
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert f"{name}.{member}" in headings(written)
            first = (inspect.getdoc(value) or "").splitlines()[0]
            assert any(first in page for page in written.values()), (name, member)


def test_every_link_within_the_reference_leads_to_a_heading(written):
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", written["README.md"]):
        assert anchor in {heading.lower().replace(".", "") for heading in re.findall(r"(?m)^##+ (\S+)$", written[page])}
