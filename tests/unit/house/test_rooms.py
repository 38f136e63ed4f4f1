# SPDX-License-Identifier: Apache-2.0
"""The house: few modules in a folder, few rooms in a package, files of a sensible length, tests that mirror them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {
    "estimator": "services/estimator/finetree_estimator",
    "recommender": "services/recommender/finetree_recommender",
    "runtime": "services/runtime/finetree_runtime",
    "trainer": "services/trainer/control/finetree_trainer",
    "data": "services/trainer/data/finetree_data",
    "worker": "services/trainer/worker/finetree_worker",
    "cli": "clients/cli/finetree_cli",
    "console": "clients/console/finetree_console",
    "sdk": "clients/python/finetree",
}
MAX_MODULES = 12
"""Modules of a folder, its `__init__` left out: what a reader takes in at a glance."""
ONE_FILE_EACH = {"clients/cli/finetree_cli/commands": "one file a command"}
"""Folders that may hold more, and what their files are."""
ACROSS = {
    "data/traps": "files of which a careless reader learns the wrong thing, through every room",
    "estimator/accuracy": "predictions against published and measured runs",
    "estimator/test_any_run.py": "random runs through every room",
    "estimator/test_agreement.py": "random runs, and what more of something does to them",
    "recommender/rule_pack/packs": "the packs that come with the service, as data",
    "sdk/test_import.py": "what importing the SDK costs",
    "sdk/test_reference.py": "that the pages in docs/sdk are those of the docstrings",
    "sdk/test_parity.py": "that both kinds of client have the same methods",
}
"""Tests that belong to no single module, and what they are about."""
MAX_ROOMS = 9
MORE_ROOMS = {
    "services/trainer/worker/finetree_worker": 12,
    "services/trainer/control/finetree_trainer": 13,
    "clients/cli/finetree_cli": 10,
}
"""Packages that may have more rooms: a worker has one for each kind of task, the trainer one for what works on its
folder without it, one for the object store and one for several of it, the command one for what looks after an
installation."""
MAX_LINES = 450
"""Lines of a file. A subject is not cut in two to stay short, so this is far above what is usual."""


def folders(package: str) -> list[Path]:
    root = ROOT / package
    return [root, *(path for path in sorted(root.rglob("*")) if path.is_dir() and (path / "__init__.py").exists())]


def modules(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_folder_holds_a_dozen_modules_at_most(package):
    crowded = {
        str(folder.relative_to(ROOT)): len(modules(folder))
        for folder in folders(package)
        if len(modules(folder)) > MAX_MODULES and str(folder.relative_to(ROOT)) not in ONE_FILE_EACH
    }
    assert crowded == {}


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_package_has_three_to_eight_rooms(package):
    rooms = [path for path in folders(package)[1:] if path.parent == ROOT / package]
    assert 3 <= len(rooms) <= MORE_ROOMS.get(package, MAX_ROOMS), [path.name for path in rooms]


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_file_is_no_longer_than_its_thought(package):
    long = {
        str(path.relative_to(ROOT)): count
        for folder in folders(package)
        for path in folder.glob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_room_says_what_it_holds(package):
    """An `__init__` without a docstring is a door without a sign."""
    for folder in folders(package):
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        assert '"""' in text, folder.relative_to(ROOT)


@pytest.mark.parametrize(("tests", "package"), PACKAGES.items())
def test_unit_tests_stand_where_their_code_does(tests, package):
    """test_<module>.py or test_<module>_<aspect>.py, in the folder of that name; a room's name stands for all of it."""
    lost = []
    for path in sorted((ROOT / "tests/unit" / tests).rglob("test_*.py")):
        place = path.relative_to(ROOT / "tests/unit")
        if str(place) in ACROSS or str(place.parent) in ACROSS:
            continue
        folder = ROOT / package / path.parent.relative_to(ROOT / "tests/unit" / tests)
        found = [*modules(folder), folder, *folder.iterdir()] if folder.is_dir() else []
        names = {place.stem.strip("_") for place in found}
        subject = path.stem.removeprefix("test_")
        if not any(subject == name or subject.startswith(f"{name}_") for name in names):
            lost.append(str(path.relative_to(ROOT)))
    assert lost == []
