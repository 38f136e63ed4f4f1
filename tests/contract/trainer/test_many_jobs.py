# SPDX-License-Identifier: Apache-2.0
"""`finetree train` with several files, and `finetree top`, beside a real trainer with scripted workers."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from finetree_cli import __main__ as entry
from finetree_cli.commands.train_batch import LABEL
from trainer_harness import ROWS, jsonl, trainer


@pytest.fixture
def run(capsys):
    async def command(*words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that runs beside the trainer."""
        code = await asyncio.wait_for(asyncio.to_thread(entry.run, [str(word) for word in words]), 60)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, "".join(f"{line}\n" for line in captured.err.splitlines() if line[:1] != "{")

    return command


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Two files that train, and one with a setting that nothing has between them."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(jsonl(ROWS))
    good = "model: {path: tiny}\nlora: {rank: %d}\ndataset: {path: rows.jsonl}\n"
    for name, text in (("a", good % 8), ("b", "model: {path: tiny}\nlora: {rankk: 8}\n"), ("c", good % 16)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return sorted(folder.glob("*.yaml"))


async def test_no_file_is_queued_before_all_are_looked_at_then_all_are_followed(tmp_path, run, files, monkeypatch):
    async with trainer(tmp_path, {"steps": 4, "artifact": True}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        code, out, err = await run("train", *files)
        assert code == 2
        assert "rankk" in err
        assert "nothing was queued" in err
        assert out.count("checked") == 2
        assert not json.loads((await run("jobs", "list", "--json"))[1])["jobs"]
        code, out, err = await run("train", *files, "--continue-on-error", "--label", "team=search")
        assert code == 2
        assert out.count("succeeded") == 2
        assert "refused" in out
        assert f"{files[0]}: " in err
        listed = json.loads((await run("jobs", "list", "--label", "team=search", "--json"))[1])["jobs"]
        assert [job["display_name"] for job in listed] == [str(files[2]), str(files[0])]  # newest first
        assert len({job["labels"][LABEL] for job in listed}) == 1
        code, out, _ = await run("train", files[0], files[2], "--priority", "low", "--json")
        document = json.loads(out)
        assert code == 0
        assert [each["job"]["state"] for each in document["jobs"]] == ["JOB_STATE_SUCCEEDED"] * 2
        assert [each["file"] for each in document["jobs"]] == [str(files[0]), str(files[2])]
        assert all(each["job"]["priority"] == "JOB_PRIORITY_LOW" for each in document["jobs"])
        assert all(each["best_loss"] > 0 and each["artifacts"] for each in document["jobs"])
        code, out, _ = await run("train", files[0], files[2], "--check", "--json")
        assert (code, ["plan" in each for each in json.loads(out)["jobs"]]) == (0, [True, True])
        assert (await run("train", *files, "--data", files[0]))[0] == 2


async def test_the_exit_code_of_a_batch_is_that_of_its_worst_job(tmp_path, run, files, monkeypatch):
    async with trainer(tmp_path, {"steps": 3, "outcome": "failed"}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        code, out, err = await run("train", *files, "--continue-on-error")
        assert (code, out.count("failed"), "2 of 3 jobs did not succeed" in err) == (4, 2, True)
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        code, out, err = await run("train", files[0], files[2], "--timeout", "2s", "--json")
        assert (code, "still running" in err) == (6, True)
        for each in json.loads(out)["jobs"]:
            await talk.cancel(each["job"]["name"])


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of every file of a database."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.glob("trainer.db*")
    }


async def test_an_overview_of_a_trainer_and_of_its_folder_while_it_runs_and_when_it_is_down(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.02}, cpu_slots=1) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        dataset = (await talk.upload(jsonl(ROWS))).name
        first = await talk.train(dataset=dataset, display_name="first")
        second = await talk.train(dataset=dataset, display_name="second")
        await talk.until(first.name, lambda event: event.step_metrics.step >= 5)
        code, out, _ = await run("top", "--once")
        assert code == 0
        assert "1 running, 1 waiting" in out
        assert "training" in out
        document = json.loads((await run("top", "--json"))[1])
        assert [job["name"] for job in document["jobs"]] == [first.name, second.name]
        assert len(document["curves"][first.name]["loss"]) >= 2
        assert document["capacity"]["nodes"][0]["devices"]
        # The folder of the running service: read beside it.
        code, out, _ = await run("top", "--data-dir", tmp_path / "data")
        assert (code, "last stored" in out, first.uid in out) == (0, True, True)
        await talk.cancel(second.name)
        await talk.cancel(first.name)
        await talk.events(first.name)
    before = contents(tmp_path / "data")
    stored = json.loads((await run("top", "--data-dir", tmp_path / "data", "--json"))[1])
    assert contents(tmp_path / "data") == before
    assert stored["stored"] is True
    assert stored["stored_time"]
    assert {(job["name"], job["state"]) for job in stored["jobs"]} == {
        (first.name, "JOB_STATE_CANCELLED"),
        (second.name, "JOB_STATE_CANCELLED"),
    }
    assert stored["curves"][first.name]["loss"][-1]["step"] >= 5
    code, _, err = await run("top", "--data-dir", tmp_path / "rows")
    assert (code, "DATA_DIR_EMPTY" in err) == (2, True)
