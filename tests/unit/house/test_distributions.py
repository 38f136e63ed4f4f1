# SPDX-License-Identifier: Apache-2.0
"""The distributions: one version for all, complete metadata, and the license in each."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import finetree
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "release" / "versions.py"
MEMBERS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"][
    "members"
]
OLDEST_BACKEND = Version("0.8.0")
"""Oldest uv_build that is tried by hand; an index that people have at work may stop anywhere above it."""


def pyproject(member: str, root: Path = ROOT) -> dict[str, Any]:
    return tomllib.loads((root / member / "pyproject.toml").read_text(encoding="utf-8"))


def project(member: str, root: Path = ROOT) -> dict[str, Any]:
    found: dict[str, Any] = pyproject(member, root)["project"]
    return found


def siblings(member: str, root: Path = ROOT) -> list[Requirement]:
    """What a distribution asks for of this repository, extras included."""
    described = project(member, root)
    extras: dict[str, list[str]] = described.get("optional-dependencies", {})
    wanted = [*described["dependencies"], *(text for extra in extras.values() for text in extra)]
    return [each for text in wanted if (each := Requirement(text)).name.startswith("finetree")]


def test_every_folder_with_a_distribution_is_a_member():
    tracked = subprocess.run(
        ["git", "ls-files", "*/pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert sorted(MEMBERS) == sorted(str(Path(line).parent) for line in tracked.stdout.splitlines())


@pytest.mark.parametrize("member", MEMBERS)
def test_versions_move_together(member):
    assert project(member)["version"] == finetree.__version__
    for sibling in siblings(member):
        assert str(sibling.specifier) == f"=={finetree.__version__}", sibling


@pytest.mark.parametrize("member", MEMBERS)
def test_metadata_is_complete(member):
    described = project(member)
    assert described["description"].endswith(".")
    assert described["license"] == "Apache-2.0"
    assert described["readme"] == "README.md"
    assert described["requires-python"] == ">=3.11"
    assert {"Programming Language :: Python :: 3 :: Only", "Typing :: Typed"} <= set(described["classifiers"])
    assert not [each for each in described["classifiers"] if each.startswith("License ::")], "the expression says it"
    title = (ROOT / member / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(rf"# {described['name']}(:.*)?", title)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_carries_its_license_and_its_types(member):
    assert project(member)["license-files"] == ["LICENSE", "NOTICE"]
    for name in ("LICENSE", "NOTICE"):
        assert (ROOT / member / name).read_bytes() == (ROOT / name).read_bytes(), f"copy {name} into {member}"
    backend = pyproject(member)["tool"]["uv"]["build-backend"]
    assert (ROOT / member / backend["module-root"] / backend["module-name"] / "py.typed").exists()


@pytest.mark.parametrize("member", MEMBERS)
def test_the_backend_is_one_that_an_index_has(member):
    (wanted,) = (Requirement(text) for text in pyproject(member)["build-system"]["requires"])
    assert wanted.name == "uv_build"
    assert OLDEST_BACKEND in wanted.specifier
    # The uv of `make setup` builds with what it carries only if that is allowed.
    (own,) = re.findall(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert Version(own) in wanted.specifier


def test_a_version_is_written_everywhere_at_once(tmp_path):
    kept = ["pyproject.toml", "release/versions.py", "clients/python/finetree/_version.py", "release/chart/Chart.yaml"]
    for name in [*kept, *(f"{member}/pyproject.toml" for member in MEMBERS)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = tmp_path / "release" / "versions.py"
    done = subprocess.run([sys.executable, script, "1.2.0rc3"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(MEMBERS)} distributions are 1.2.0rc3 now\n"
    for member in MEMBERS:
        assert project(member, tmp_path)["version"] == "1.2.0rc3"
        assert [str(each.specifier) for each in siblings(member, tmp_path)] == ["==1.2.0rc3"] * len(siblings(member))
        before = (ROOT / member / "pyproject.toml").read_text(encoding="utf-8")
        after = (tmp_path / member / "pyproject.toml").read_text(encoding="utf-8")
        assert after.replace("1.2.0rc3", finetree.__version__) == before
    assert '__version__ = "1.2.0rc3"' in (tmp_path / kept[2]).read_text(encoding="utf-8")
    assert 'appVersion: "1.2.0rc3"' in (tmp_path / kept[3]).read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["", "v1.0", "1.0-rc1", "latest", "1.0.0+local"])
def test_what_is_no_version_is_refused(version):
    done = subprocess.run([sys.executable, SCRIPT, version], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no version such as 0.2.0" in done.stderr
    assert project(MEMBERS[0])["version"] == finetree.__version__
