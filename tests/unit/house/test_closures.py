# SPDX-License-Identifier: Apache-2.0
"""What each distribution brings along, read from the lock: the SDK stays small and torch stays in its room."""

import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRAINING = {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy"}
WITHOUT_TORCH = [
    ("finetree-protos", None),
    ("finetree", None),
    ("finetree-runtime", None),
    ("finetree-recommender", None),
    ("finetree-estimator", None),
    ("finetree-trainer", None),
    ("finetree-cli", None),
    ("finetree-cli", "local"),
    ("finetree-console", None),
]


@cache
def uv() -> str:
    own = ROOT / ".bootstrap" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    assert found, "no uv: run `make setup`"
    return found


@cache
def closure(distribution: str, extra: str | None = None) -> frozenset[str]:
    """Every distribution, ours left out, that installing `distribution` brings, on any platform."""
    options = ["--no-dev", "--no-hashes", "--no-annotate", "--no-header", "--no-emit-workspace"]
    chosen = ["--extra", extra] if extra else []
    command = [uv(), "export", "--quiet", "--frozen", "--package", distribution, *options, *chosen]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return frozenset(line.split("==")[0] for line in listed.splitlines() if "==" in line)


def locked() -> list[dict[str, object]]:
    packages: list[dict[str, object]] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return packages


@pytest.mark.parametrize(("distribution", "extra"), WITHOUT_TORCH)
def test_no_training_library_outside_the_worker(distribution, extra):
    assert closure(distribution, extra) & TRAINING == set()


@pytest.mark.parametrize(("distribution", "extra"), [("finetree-worker", None), ("finetree-cli", "suite")])
def test_the_worker_and_the_suite_hold_the_training_libraries(distribution, extra):
    assert closure(distribution, extra) >= TRAINING


def test_the_sdk_brings_at_most_five_packages():
    assert 0 < len(closure("finetree")) <= 5, sorted(closure("finetree"))


def test_the_sdk_brings_no_server_library():
    assert closure("finetree") & {"protovalidate", "grpcio-status", "grpcio-reflection", "structlog", "uvloop"} == set()


def test_the_contract_brings_protobuf_and_the_google_messages_alone():
    assert closure("finetree-protos") == {"protobuf", "googleapis-common-protos"}


def test_no_llama_cpp_build_in_the_lock():
    assert [package["name"] for package in locked() if "llama" in str(package["name"])] == []


def test_every_package_comes_from_the_default_index_or_this_workspace():
    foreign = {
        str(package["name"]): source
        for package in locked()
        if isinstance(source := package["source"], dict)
        and not {"editable", "virtual"} & source.keys()
        and source.get("registry") != "https://pypi.org/simple"
    }
    assert foreign == {}
