# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs` compare, logs and export against the service, whose jobs a scripted worker does."""
# ruff: noqa: ASYNC240 - a test reads a small file

import asyncio
import csv
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_cli.errors import BadInput
from trainer_harness import ROWS, jsonl, trainer, write_script

EVALUATION = {"step": 4, "loss_standard_error": 0.01, "rows": 50, "rows_sha256": "a" * 64}
SCRIPT = {"steps": 4, "log": "said", "samples": [{"prompt": "why", "expected": "so", "after": "so"}]}


class Command:
    """`await command(words)` is what `finetree jobs` prints."""

    def __init__(self, talk, folder) -> None:
        self.talk, self.folder, self.dataset = talk, folder, ""

    async def __call__(self, *words: object) -> str:
        invoke = CliRunner().invoke
        done = await asyncio.to_thread(invoke, cli, ["jobs", *map(str, words), "--trainer", self.talk.address])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    async def train(self, name: str = "", **script: object) -> str:
        write_script(self.folder, SCRIPT | script)
        self.dataset = self.dataset or (await self.talk.upload(jsonl(ROWS))).name
        return (await self.talk.train(dataset=self.dataset, display_name=name)).name


@pytest.fixture
async def run(tmp_path):
    async with trainer(tmp_path) as talk:
        yield Command(talk, tmp_path)


async def test_jobs_are_compared_as_text_markdown_json_and_svg(run, tmp_path):
    svg, jobs = tmp_path / "runs.svg", []
    for name, loss in (("first", 1.5), ("second", 1.3)):
        jobs.append(await run.train(name, evaluations=[EVALUATION | {"loss": loss}]))
        await run.talk.events(jobs[-1])
    text = await run("compare", *jobs, "--svg", svg)
    assert "best: B: second" in text.splitlines()[0]
    assert "eval_loss, nats" in text
    assert "1.3 (1.28 to 1.32) (best)" in text
    root = ET.fromstring(svg.read_text(encoding="utf-8"))
    drawn = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(words.startswith("best: B: second") for words in drawn)
    assert {"loss (nats)", "eval_loss (nats)", "optimizer steps"} <= set(drawn)
    found = json.loads(await run("compare", *jobs, "--axis", "tokens", "--json"))
    assert (found["best"]["job"], found["axis"]) == (1, "CURVE_AXIS_TOKENS")
    markdown = await run("compare", *jobs, "--markdown")
    assert markdown.startswith("**best: B: second")
    assert "| Metric | A | B | Compared |" in markdown
    with pytest.raises(BadInput, match="from 2 to 16"):
        await run("compare", jobs[0])


async def test_logs_are_printed_followed_and_listed(run):
    name = await run.train(kill_at={"1": 3}, delay=0.02)
    lines = [
        f"attempt {attempt} step {step}: said" for attempt, last in ((1, 3), (2, 4)) for step in range(1, last + 1)
    ]
    assert (await run("logs", name, "--follow")).splitlines() == lines
    assert (await run("logs", name)).splitlines() == lines[3:]
    assert (await run("logs", name, "--attempt", "1", "--tail", "2")).splitlines() == lines[1:3]
    assert json.loads(await run("logs", name, "--tail", "1", "--json"))["text"] == lines[-1]
    listed = json.loads(await run("logs", name, "--list", "--json"))["logs"]
    assert [log["attempt"] for log in listed] == [1, 2]
    assert len((await run("logs", name, "--list")).strip().splitlines()) == 4


async def test_an_export_marks_what_a_later_attempt_repeats(run, tmp_path):
    name = await run.train(kill_at={"1": 3}, delay=0.02)
    (path,) = (await run("export", name, "--output", tmp_path / "metrics", "--follow")).splitlines()
    rows = [(row["attempt"], row["row"], row["step"]) for row in csv.DictReader(Path(path).read_text().splitlines())]
    steps = [("1", "attempt", "0"), *(("1", "step", str(step)) for step in (1, 2))]
    steps += [("2", "attempt", "0"), *(("2", "step", str(step)) for step in (1, 2, 3, 4))]
    assert rows == steps
    words = ("export", name, "--format", "tensorboard", "-o", tmp_path / "runs", "--json")
    (file,) = json.loads(await run(*words))["files"]
    assert file["job"] == name
    assert "tfevents" in file["path"]
    with pytest.raises(BadInput, match="one job"):
        await run("export", name, name, "--follow")


async def test_limits_are_a_sentence_where_nothing_is_limited_and_else_a_table(tmp_path):
    async def shown(**settings: object) -> list[str]:
        async with trainer(tmp_path, {"steps": 1}, **settings) as talk:
            words = ["limits", "show", "--trainer", talk.address]
            return (await asyncio.to_thread(CliRunner().invoke, cli, words)).stdout.splitlines()

    said = "dataset_bytes of projects/default: 0 B of 64.00 GiB, and watchers of principals/local: 0 of 500"
    assert await shown(max_project_bytes=64 * 1024**3, max_watchers_per_caller=500) == [
        f"nothing is limited but {said}"
    ]
    file = tmp_path / "limits.toml"
    file.write_text("[default.project]\nqueued_jobs = 3\n")
    table = [line.split() for line in await shown(limits_file=file)]
    assert ["Of", "Limit", "Used", "Allowed", "Begins", "anew"] in table
    assert ["projects/default", "queued_jobs", "0", "3"] in table
