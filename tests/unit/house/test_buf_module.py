# SPDX-License-Identifier: Apache-2.0
"""protos/ as a module of buf: what its README shows to do with a clone, a git repository, or own .proto files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[3]
BUF = Path(sys.executable).with_name("buf")
README = (ROOT / "protos" / "README.md").read_text(encoding="utf-8")
OWN = """\
syntax = "proto3";
package acme.v1;
import "finetree_api/types/v1/run_spec.proto";
message Nightly {
  finetree_api.types.v1.RunSpec spec = 1;
}
"""
WORKSPACE = "version: v2\nmodules: [{path: own}, {path: third_party/finetree}]\n"


def buf(folder: Path, *arguments: str) -> str:
    done = subprocess.run([BUF, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path) -> Path:
    """A git repository with the contract, as a user clones it."""
    clone = tmp_path / "finetree"
    shutil.copytree(ROOT / "protos", clone / "protos", ignore=shutil.ignore_patterns("gen", "__pycache__"))
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "contract"]):
        subprocess.run(["git", *command], cwd=clone, check=True)
    return clone


def test_own_files_import_an_exported_contract(clone, tmp_path):
    (command,) = re.findall(r"`(buf export [^`]*)`", README)
    buf(tmp_path, *command.split()[1:])
    (tmp_path / "own/acme/v1").mkdir(parents=True)
    (tmp_path / "own/acme/v1/nightly.proto").write_text(OWN, encoding="utf-8")
    (tmp_path / "buf.yaml").write_text(WORKSPACE, encoding="utf-8")
    listed = buf(tmp_path, "ls-files", "--include-imports").split()
    buf(tmp_path, "build")
    assert [path for path in listed if path.endswith("finetree_api/types/v1/run_spec.proto")]


@pytest.mark.parametrize("source", ["clone", "git"])
def test_stubs_are_made_as_shown(clone, tmp_path, source):
    """With the Python generator in place of the README's, which npm would have to bring."""
    (template,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    yaml = YAML(typ="safe", pure=True)
    shown = yaml.load(template)
    (place,) = shown["inputs"]
    if source == "git":
        folder = place.pop("directory")
        paths = [path.removeprefix(f"{folder}/") for path in place["paths"]]
        place |= {"git_repo": str(clone / ".git"), "subdir": "protos", "paths": paths}
    protoc = {"protoc_builtin": "python", "protoc_path": [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc"]}
    shown["plugins"] = [protoc | {"out": "gen", "include_imports": True}]
    with (tmp_path / "buf.gen.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(shown, file)
    buf(tmp_path, "generate")
    made = {path.relative_to(tmp_path / "gen").as_posix() for path in (tmp_path / "gen").rglob("*.py")}
    assert {"finetree_api/trainer/v1/trainer_pb2.py", "google/rpc/error_details_pb2.py"} <= made
    assert not [path for path in made if path.startswith("buf/")]


def test_the_module_has_what_a_registry_shows():
    modules = YAML(typ="safe", pure=True).load((ROOT / "protos/buf.yaml").read_text(encoding="utf-8"))["modules"]
    assert [module["name"] for module in modules if module["path"] == "."] == ["buf.build/finetree/finetree"]
    assert (ROOT / "protos/LICENSE").is_file()
