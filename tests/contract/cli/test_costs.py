# SPDX-License-Identifier: Apache-2.0
"""`finetree costs` over the jobs of a trainer."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry
from google.type import money_pb2

JOB = "model: {name: small}\nlora: {rank: 8}\ntraining: {epochs: 1}\n"


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with Suite() as found:
        found.trainer.script = Script(steps=3)
        found.base_models.add("acme/small")
        yield found


@pytest.fixture
def run(suite, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FINETREE_ADDRESS", suite.address)
    data = suite.datasets.add([{"text": "a"}]).name
    (tmp_path / "job.yaml").write_text(f"{JOB}dataset: {{name: {data}}}\n", encoding="utf-8")

    def command(*words: str) -> tuple[int, str, str]:
        code = entry.run([str(tmp_path / word) if word == "job.yaml" else word for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_ended_jobs_with_a_price_are_rows_and_the_others_are_counted(run, suite):
    for _ in range(2):
        code, _, err = run("train", "job.yaml", "--watch")
        assert code == 0, err
    priced = next(iter(suite.trainer._jobs.values())).message
    priced.cost.amount.CopyFrom(money_pb2.Money(currency_code="USD", units=2, nanos=500_000_000))
    for job in suite.trainer._jobs.values():
        job.message.start_time.FromJsonString("2026-11-27T10:00:00Z")
        job.message.end_time.FromJsonString("2026-11-28T11:00:00Z")
    code, out, err = run("costs", "--format", "focus", "--account", "a-1")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (code, row["BilledCost"], row["ResourceId"], row["BillingAccountId"]) == (0, "2.5", priced.name, "a-1")
    assert "1 of 2 ended jobs have no cost" in err
    document = json.loads(run("costs", "--json")[1])
    assert [(job["cost"], job["currency_code"]) for job in document["jobs"]] == [(2.5, "USD")]
    assert "$2.50" in run("costs")[1]
    assert json.loads(run("costs", "--until", "2026-11-27", "--json")[1]) == {"jobs": []}
    assert len(json.loads(run("costs", "--since", "2026-11-28", "--json")[1])["jobs"]) == 1


def test_where_nothing_was_spent_a_sentence_says_so_in_place_of_a_table(run, suite):
    # Of a job of its own: the suite is the module's, and another test prices its jobs.
    code, _, err = run("train", "job.yaml", "--watch", "--label", "kind=free")
    assert code == 0, err
    assert run("costs", "--label", "kind=free")[1] == "no cost: no job of those asked for has ended with a price\n"
    with Suite() as empty:
        assert run("costs", "--address", empty.address)[1] == "no cost: no job has ended with a price\n"
