# SPDX-License-Identifier: Apache-2.0
"""What git is asked: real repositories, and the words of a commit that is not here."""

import os
from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.base.git import find_commit

JOB = "model: {name: small}\nlora: {rank: 8}\n# a comment that makes the file long enough to be found again\n"


def test_files_have_the_bytes_of_the_commit_whatever_stands_in_the_working_tree(commit, tmp_path):
    commit({"a.yaml": "old\n", "sub/ä b.yaml": "two\n"})
    Path("a.yaml").write_text("new\n", encoding="utf-8")
    Path("link.yaml").symlink_to("a.yaml")
    found = find_commit("main")
    files = found.files()
    assert set(files) == {"a.yaml", "sub/ä b.yaml"}
    found.write({tmp_path / "out" / name: blob for name, blob in files.items()})
    assert (tmp_path / "out/a.yaml").read_text(encoding="utf-8") == "old\n"
    assert (tmp_path / "out/sub/ä b.yaml").read_text(encoding="utf-8") == "two\n"
    assert found.changed(["a.yaml", "sub/ä b.yaml"]) == {"a.yaml"}


def test_links_and_other_repositories_are_no_files(git, commit):
    Path("link.yaml").symlink_to("a.yaml")
    commit({"a.yaml": JOB})
    assert set(find_commit("HEAD").files()) == {"a.yaml"}


def test_renames_are_found_up_to_a_commit_and_up_to_the_working_tree(git, commit):
    commit({"a.yaml": JOB, "b.yaml": "x: 1\n"})
    git("switch", "--quiet", "--create", "branch")
    git("mv", "a.yaml", "c.yaml")
    assert find_commit("main").renamed(None) == {"c.yaml": "a.yaml"}
    commit({"c.yaml": JOB + "training: {epochs: 2}\n"})
    git("switch", "--quiet", "main")
    assert find_commit("main").renamed(find_commit("branch")) == {"c.yaml": "a.yaml"}
    assert find_commit("main").renamed(None) == {}


def test_from_a_folder_below_paths_still_begin_at_the_top(commit, monkeypatch):
    commit({"jobs/a.yaml": JOB})
    monkeypatch.chdir("jobs")
    found = find_commit("HEAD")
    assert found.prefix == "jobs/"
    assert set(found.files()) == {"jobs/a.yaml"}


@pytest.mark.parametrize(
    ("ref", "remedy"),
    [
        ("origin/main", "git fetch --depth=1 origin main:refs/remotes/origin/main"),
        ("origin/release/1", "git fetch --depth=1 origin release/1:refs/remotes/origin/release/1"),
        ("v1", "git fetch --depth=1 origin v1"),
        ("HEAD~1", "git fetch --unshallow"),
    ],
)
def test_a_commit_that_a_shallow_clone_lacks_is_named_with_the_command_that_fetches_it(git, commit, ref, remedy):
    commit({"a.yaml": "1\n"})
    git("branch", "work")
    commit({"a.yaml": "2\n"})
    git("clone", "--quiet", "--depth=1", "--branch=work", f"file://{Path.cwd()}", "../clone")
    os.chdir("../clone")
    with pytest.raises(BadInput, match="no commit of this shallow clone") as refused:
        find_commit(ref)
    assert refused.value.remedy == remedy
    if ref == "origin/main":
        git(*remedy.split()[1:])
        assert find_commit(ref).files()


def test_a_commit_that_a_whole_repository_lacks_is_named(git, commit):
    commit({"a.yaml": "1\n"})
    with pytest.raises(BadInput, match="no-such: no commit of this repository") as refused:
        find_commit("no-such")
    assert "a branch, a tag or a commit" in refused.value.remedy
    git("remote", "add", "up", "../nowhere")
    with pytest.raises(BadInput) as refused:
        find_commit("up/main")
    assert refused.value.remedy == "git fetch up main:refs/remotes/up/main"


@pytest.mark.parametrize("ref", ["--help", "-x", "", "a b", "HEAD:a.yaml", "main..work"])
def test_what_is_no_ref_is_never_an_option(git, commit, ref):
    commit({"a.yaml": "1\n"})
    with pytest.raises(BadInput):
        find_commit(ref)


def test_a_folder_outside_a_repository_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(BadInput, match="not a git repository"):
        find_commit("main")
