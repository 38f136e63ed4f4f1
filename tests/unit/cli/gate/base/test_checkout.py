# SPDX-License-Identifier: Apache-2.0
"""The job files of another commit: which there were, under which names, beside which data."""

from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.base.checkout import check_out
from finetree_cli.gate.base.git import find_commit

JOB = "model: {name: small}\nlora: {rank: 8}\ndataset: {path: PATH}\n# long enough to be found under another name\n"
ROWS = '{"prompt": "a", "completion": "b"}\n'


def job(path: str = "rows.jsonl") -> str:
    return JOB.replace("PATH", path)


def test_job_files_of_the_current_folder_are_those_of_the_commit(commit):
    commit({"a.finetree.yaml": job(), "sub/finetree.yaml": job(), "other.yaml": "x: 1\n"})
    commit({"a.finetree.yaml": None, "b.finetree.yaml": "model: {name: large}\n"})
    with check_out(find_commit("HEAD~1"), []) as side:
        assert side.files == ("a.finetree.yaml", "sub/finetree.yaml")
        assert (side.folder / "a.finetree.yaml").read_text(encoding="utf-8") == job()
        assert not (side.folder / "other.yaml").exists()
    assert not side.folder.exists()


@pytest.mark.parametrize(
    ("paths", "files"),
    [
        (["jobs/x.yaml"], ("jobs/x.yaml",)),
        (["./jobs/x.yaml", "gone.yaml"], ("jobs/x.yaml",)),
        (["jobs/*.yaml"], ("jobs/x.yaml", "jobs/y.finetree.yaml")),
        (["jobs"], ("jobs/y.finetree.yaml",)),
        (["**/[x].yaml"], ("jobs/x.yaml",)),
        (["empty"], ()),
        (["jobs/y.finetree.yaml", "jobs"], ("jobs/y.finetree.yaml",)),
    ],
)
def test_paths_mean_what_they_meant_in_the_commit(commit, paths, files):
    commit({"jobs/x.yaml": job(), "jobs/y.finetree.yaml": job(), "jobs/z.txt": "", "xx.yaml": job()})
    commit({"jobs/x.yaml": None})
    with check_out(find_commit("HEAD~1"), paths) as side:
        assert side.files == files


def test_a_renamed_file_is_found_under_its_former_name_also_where_that_was_no_job_files_name(git, commit):
    commit({"jobs/x.yaml": job()})
    git("mv", "jobs/x.yaml", "jobs/x.finetree.yaml")
    for paths in ([], ["jobs"], ["jobs/x.finetree.yaml"]):
        with check_out(find_commit("HEAD"), paths, present=["jobs/x.finetree.yaml"]) as side:
            assert side.files == ("jobs/x.yaml",)
            assert side.renames == {"jobs/x.finetree.yaml": "jobs/x.yaml"}


def test_data_is_that_of_the_commit_and_is_linked_where_it_is_the_same_or_git_has_none(commit):
    named = {name: job(f"../data/{name}.jsonl") for name in ("same", "changed", "foreign", "gone")}
    commit({f"jobs/{name}.yaml": text for name, text in named.items()} | {".gitignore": "data/foreign.jsonl\n"})
    commit({"data/same.jsonl": ROWS, "data/changed.jsonl": ROWS, "data/gone.jsonl": ROWS * 3})
    commit({"data/changed.jsonl": ROWS * 2, "data/gone.jsonl": None})
    Path("data/foreign.jsonl").write_text(ROWS * 5, encoding="utf-8")
    with check_out(find_commit("HEAD~1"), [f"jobs/{name}.yaml" for name in named]) as side:
        rows = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in side.folder.glob("data/*")}
        links = {path.stem for path in side.folder.glob("data/*") if path.is_symlink()}
    assert rows == {"same": 1, "changed": 1, "foreign": 5, "gone": 3}
    assert links == {"same", "foreign"}
    assert Path("data/foreign.jsonl").exists(), "what is linked outlives the folder"


def test_a_pointer_of_large_file_storage_is_no_data(commit):
    commit({"a.yaml": job(), "rows.jsonl": "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n"})
    commit({"rows.jsonl": ROWS})
    with check_out(find_commit("HEAD~1"), ["a.yaml"]) as side:
        assert not (side.folder / "rows.jsonl").exists()


def test_from_a_folder_below_names_are_relative_to_it(commit, monkeypatch):
    commit({"jobs/a.finetree.yaml": job("../rows.jsonl"), "rows.jsonl": ROWS, "b.finetree.yaml": job()})
    commit({"rows.jsonl": ROWS * 2})
    monkeypatch.chdir("jobs")
    before = Path.cwd()
    with check_out(find_commit("HEAD~1"), []) as side:
        assert side.files == ("a.finetree.yaml",)
        assert (side.folder / "../rows.jsonl").read_text(encoding="utf-8") == ROWS
    assert Path.cwd() == before


def test_hostile_paths_write_nothing_outside_the_folder(commit, tmp_path):
    target = tmp_path / "outside.jsonl"
    commit({"a.yaml": job("../outside.jsonl"), "b.yaml": job("../../../../etc/passwd"), "c.yaml": job(str(target))})
    with check_out(find_commit("HEAD"), ["a.yaml", "b.yaml", "c.yaml"]) as side:
        assert sorted(path.name for path in side.folder.iterdir()) == ["a.yaml", "b.yaml", "c.yaml"]
    assert not target.exists()


@pytest.mark.parametrize("path", ["-", "/etc/job.yaml"])
def test_what_is_in_no_commit_is_refused(commit, path):
    commit({"a.yaml": job()})
    with pytest.raises(BadInput, match="is in no commit"), check_out(find_commit("HEAD"), [path]):
        pass
