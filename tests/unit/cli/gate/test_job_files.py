# SPDX-License-Identifier: Apache-2.0
"""Which files a check finds, and that a file that is no job does not stop the rest."""

import hashlib
from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.job_files import find_job_files, read_jobs
from finetree_cli.jobfile.job import JobFile

JOB = "model: {name: small}\nlora: {}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/finetree.yaml",
        "a/b/x.finetree.yml",
        "a/other.yaml",
        ".hid/finetree.yaml",
        "node_modules/finetree.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(JOB, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ((), ["a/b/x.finetree.yml", "a/finetree.yaml"]),
        (("a",), ["a/b/x.finetree.yml", "a/finetree.yaml"]),
        (("a/other.yaml", "a/*.yaml"), ["a/other.yaml", "a/finetree.yaml"]),
        (("**/*.yaml",), ["a/finetree.yaml", "a/other.yaml", "node_modules/finetree.yaml"]),
        (("-", "./a/other.yaml", "a/other.yaml", "missing.yaml"), ["-", "a/other.yaml", "missing.yaml"]),
        ((".hid",), [".hid/finetree.yaml"]),
    ],
    ids=str,
)
def test_files_folders_and_globs(folder, paths, found):
    assert find_job_files(paths) == found


def test_without_paths_the_files_that_the_policy_names_come_first(folder):
    assert find_job_files((), named=["a/*.yaml"]) == ["a/finetree.yaml", "a/other.yaml"]
    assert find_job_files((), named=["none/*"]) == ["a/b/x.finetree.yml", "a/finetree.yaml"]


@pytest.mark.parametrize("paths", [(), ("empty",), ("*.json",)], ids=str)
def test_nothing_to_check_is_refused(tmp_path, monkeypatch, paths):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        find_job_files(paths)
    assert refused.value.reason == "JOB_FILES_NOT_FOUND"
    assert "finetree.yaml" in refused.value.remedy


def test_a_file_that_is_no_job_is_kept_with_its_error(folder):
    (folder / "bad.yaml").write_text("color: red\n", encoding="utf-8")
    (folder / "prepare.yaml").write_text("prepare: {model: {name: a}}\n", encoding="utf-8")
    files = ["a/other.yaml", "bad.yaml", "prepare.yaml", "gone.yaml"]
    assert [each.file for each in read_jobs(files)] == ["a/other.yaml", "bad.yaml", "gone.yaml"], "found in a folder"
    read = list(read_jobs(files, given=["./prepare.yaml"]))
    assert [type(each.job) for each in read] == [JobFile, BadInput, BadInput, BadInput]
    assert read[0].sha256 == hashlib.sha256(JOB.encode()).hexdigest()
    assert read[3].sha256 == ""
    assert "does not train" in str(read[2].job)


def test_for_a_name_that_no_file_has_the_job_files_that_are_there_are_named(folder):
    def remedy() -> str:
        (read,) = read_jobs(["gone.yaml"])
        assert isinstance(read.job, BadInput)
        return read.job.remedy

    assert remedy().startswith("below the current folder there are a/b/x.finetree.yml, a/finetree.yaml; ")
    for name in "cdef":
        (folder / f"{name}.finetree.yaml").write_text(JOB, encoding="utf-8")
    assert "a/finetree.yaml, c.finetree.yaml and 3 more; " in remedy()
    for file in folder.rglob("*.y*ml"):
        file.unlink()
    assert "no job file is below the current folder" in remedy()


def test_a_policy_file_is_no_job_even_if_its_own_glob_matches_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("policy.yaml", "a.yaml"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert find_job_files((), named=["*.yaml"], policy_file=str(tmp_path / "policy.yaml")) == ["a.yaml"]
    assert find_job_files(("policy.yaml",), policy_file="policy.yaml") == ["policy.yaml"]
