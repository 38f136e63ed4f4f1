# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - keyword arguments here are fields of messages
"""Sweeps: priced as a whole, run one after another, losers stopped, the best one named; also over a kill."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from finetree import AsyncClient, InvalidArgument
from finetree_api.trainer.v1 import event_pb2, job_pb2, sweep_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_cli import __main__ as entry
from finetree_runtime.money import to_float, to_money
from google.protobuf import json_format
from held_port import held_port
from trainer_harness import ROWS, job_request, jsonl, refusal, server, trainer

LOSSES = {"2": 3.0, "4": 2.5, "8": 1.5, "16": 1.55, "32": 4.0}
RUNNING, CANCELLED = sweep_pb2.SWEEP_STATE_RUNNING, sweep_pb2.SWEEP_STATE_CANCELLED
SUCCEEDED, FAILED = sweep_pb2.SWEEP_STATE_SUCCEEDED, sweep_pb2.SWEEP_STATE_FAILED


async def template(talk, ranks, **fields) -> sweep_pb2.SweepTemplate:
    """A sweep over LoRA ranks with an evaluation at every second step."""
    evaluation = training_pb2.Evaluation(split_fraction=0.1, every_steps=2)
    task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(evaluation=evaluation))
    job = job_request((await talk.upload(jsonl(ROWS))).name, task=task)
    parameter = {"field_path": "lora.rank", "values": {"values": [{"number": rank} for rank in ranks]}}
    return json_format.ParseDict({"parameters": [parameter], **fields}, sweep_pb2.SweepTemplate(job=job))


async def create(talk, sweep, request_id="") -> sweep_pb2.Sweep:
    return (await talk.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=sweep, request_id=request_id))).sweep


async def ended(talk, name, seconds=90.0) -> sweep_pb2.Sweep:
    """The sweep once it has ended: each call waits for a change."""
    known = None
    async with asyncio.timeout(seconds):
        while True:
            request = sweep_pb2.GetSweepRequest(name=name, wait_seconds=5, known_update=known)
            sweep = (await talk.stub.GetSweep(request)).sweep
            if sweep.HasField("end_time"):
                return sweep
            known = sweep.update_time


def trial_states(sweep) -> list[str]:
    return [sweep_pb2.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_") for trial in sweep.trials]


async def test_a_grid_runs_every_trial_and_names_the_best(tmp_path):
    async with trainer(tmp_path, {"steps": 4, "losses": LOSSES, "artifact": True}, cpu_slots=2) as talk:
        asked = await template(talk, [4, 8, 16], display_name="ranks")
        priced = (await talk.stub.ValidateSweep(sweep_pb2.ValidateSweepRequest(sweep=asked))).sweep
        assert priced.estimate.cost.amount.expected == pytest.approx(0.3)
        assert (priced.estimate.total_seconds.expected, priced.estimate.estimated_trials) == (180, 3)
        assert not (await talk.stub.ListSweeps(sweep_pb2.ListSweepsRequest())).sweeps
        created = await create(talk, asked, "one")
        assert (created.state, trial_states(created)) == (RUNNING, ["WAITING"] * 3)
        assert created.template.metric == "eval_loss"
        again = await create(talk, asked, "one")
        assert again.name == created.name
        sweep = await ended(talk, created.name)
        assert (sweep.state, sweep.state_reason.code) == (SUCCEEDED, "COMPLETED")
        assert trial_states(sweep) == ["SUCCEEDED"] * 3
        assert [trial.value for trial in sweep.trials] == [pytest.approx(2.75), pytest.approx(1.75), pytest.approx(1.8)]
        # 1.75 and 1.8, each ± 0.1: this data does not tell ranks 8 and 16 apart.
        assert (sweep.best_trial, list(sweep.not_told_apart)) == (2, [3])
        assert sweep.trials[1].interval.low == pytest.approx(1.75 - 0.098, abs=1e-3)
        request = trainer_pb2.ListJobsRequest(labels={"finetree.dev/sweep": sweep.uid})
        jobs = (await talk.stub.ListJobs(request)).jobs
        assert {job.name for job in jobs} == {trial.job for trial in sweep.trials}
        assert {job.train.spec.lora.rank for job in jobs} == {4, 8, 16}
        assert {job.display_name for job in jobs} == {"ranks #1", "ranks #2", "ranks #3"}
        listed = (await talk.stub.ListSweeps(sweep_pb2.ListSweepsRequest())).sweeps
        assert [(one.name, one.best_trial, len(one.trials)) for one in listed] == [(sweep.name, 2, 0)]


async def test_halving_stops_those_that_fall_behind_by_their_events(tmp_path):
    async with trainer(tmp_path, {"steps": 200, "delay": 0.02, "losses": LOSSES}) as talk:
        asked = await template(talk, [4, 2, 32, 8], halving={}, max_parallel=1)
        sweep = await ended(talk, (await create(talk, asked)).name)
        assert trial_states(sweep) == ["SUCCEEDED", "STOPPED", "STOPPED", "SUCCEEDED"]
        assert sweep.best_trial == 4
        stopped = sweep.trials[1]
        assert "step 2" in stopped.stopped_because
        assert "best 1 of 2" in stopped.stopped_because
        job = await talk.job(stopped.job)
        assert job.state == job_pb2.JOB_STATE_CANCELLED
        events = await talk.events(stopped.job)
        taken = [event.step_metrics.step for event in events if event.kind == event_pb2.EVENT_KIND_STEP_METRICS]
        assert max(taken) < 200


async def test_a_sweep_goes_on_after_a_kill_and_no_trial_runs_twice(tmp_path):
    address = f"127.0.0.1:{held_port()}"
    async with server(tmp_path, {"steps": 20, "delay": 0.02, "losses": LOSSES}, address=address) as (process, talk):
        created = await create(talk, await template(talk, [2, 4, 8]))
        evaluated = event_pb2.EVENT_KIND_EVAL_METRICS
        async with AsyncClient(trainer_address=address, profile="") as client:
            watched = asyncio.create_task(last_of(client.watch_sweep(created.name)))
            await talk.until(await first_job(talk, created.name), lambda event: event.kind == evaluated)
            await process.kill()
            restarted = await process.start()
            sweep = await ended(restarted, created.name)
            assert (sweep.state, sweep.best_trial, trial_states(sweep)) == (SUCCEEDED, 3, ["SUCCEEDED"] * 3)
            # Whoever followed the sweep follows it over the kill.
            assert await asyncio.wait_for(watched, 60) == sweep
        assert len((await restarted.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs) == 3


async def last_of(sweeps) -> sweep_pb2.Sweep:
    """The last of the sweeps that are yielded."""
    *_, last = [sweep async for sweep in sweeps]
    return last


async def first_job(talk, name) -> str:
    known = None
    while True:
        request = sweep_pb2.GetSweepRequest(name=name, wait_seconds=5, known_update=known)
        sweep = (await talk.stub.GetSweep(request)).sweep
        if sweep.trials[0].job:
            return sweep.trials[0].job
        known = sweep.update_time


async def test_cancelling_stops_what_runs_and_starts_nothing_more(tmp_path):
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.01, "losses": LOSSES}) as talk:
        created = await create(talk, await template(talk, [2, 4, 8], max_parallel=1))
        await first_job(talk, created.name)
        request = sweep_pb2.CancelSweepRequest(name=created.name, request_id="stop")
        assert (await talk.stub.CancelSweep(request)).sweep.state != RUNNING
        sweep = await ended(talk, created.name)
        assert (sweep.state, trial_states(sweep), sweep.best_trial) == (CANCELLED, ["CANCELLED"] * 3, 0)
        assert len((await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs) == 1
        assert (await talk.stub.CancelSweep(request)).sweep.state == CANCELLED


async def test_trials_that_fail_leave_the_others_and_a_sweep_of_failures_has_failed(tmp_path):
    async with trainer(tmp_path, {"steps": 2, "outcome": "failed"}) as talk:
        sweep = await ended(talk, (await create(talk, await template(talk, [2, 4]))).name)
        assert (sweep.state, sweep.state_reason.code) == (FAILED, "NO_TRIAL_SUCCEEDED")
        assert "not finite" in sweep.trials[0].error.message


async def test_the_cost_of_all_trials_is_a_wall(tmp_path):
    """Trials that were expected to cost 0.1 EUR each cost 20: the first one reaches what all together may."""
    async with trainer(tmp_path, {"steps": 2000, "delay": 0.01, "cost": 0.01}) as talk:
        asked = await template(talk, [2, 4, 8], max_parallel=1)
        asked.max_cost.CopyFrom(to_money(0.31, "EUR"))
        sweep = await ended(talk, (await create(talk, asked)).name)
        assert sweep.state_reason.code == "COST_LIMIT"
        assert (sweep.state, trial_states(sweep)) == (CANCELLED, ["CANCELLED"] * 3)
        assert 0.31 <= to_float(sweep.cost) < 20
        assert not sweep.trials[1].job


@pytest.mark.parametrize(
    ("change", "code", "reason", "place"),
    [
        ({"metric": "accuracy"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "sweep.metric"),
        ({"max_cost": {"currency_code": "EUR", "nanos": 1}}, "RESOURCE_EXHAUSTED", "SWEEP_TOO_EXPENSIVE", ""),
        (
            {"max_cost": {"currency_code": "USD", "units": 9}},
            "INVALID_ARGUMENT",
            "CURRENCY_MISMATCH",
            "sweep.max_cost.currency_code",
        ),
        (
            {"job": {"train": {"spec": {"evaluation": {"every_steps": 0}}}}, "halving": {}},
            "INVALID_ARGUMENT",
            "SWEEP_NEEDS_EVALUATIONS",
            "sweep.halving",
        ),
        (
            {"parameters": [{"field_path": "qlora.rank", "values": {"values": [{"number": 4}]}}]},
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            "sweep.parameters[0].field_path",
        ),
        (
            {"parameters": [{"field_path": "training.sequence_length", "values": {"values": [{"number": 100000}]}}]},
            "INVALID_ARGUMENT",
            "SEQUENCE_TOO_LONG",
            "job.train.spec.training.sequence_length",
        ),
        (
            {"parameters": [{"field_path": "lora.rank", "values": {"values": [{"number": 4}, {"number": 100000}]}}]},
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            "job.train.spec.lora.rank",
        ),
        ({"job": {"suspended": True}}, "INVALID_ARGUMENT", "INVALID_REQUEST", "sweep.job.suspended"),
    ],
    ids=[
        "metric",
        "too expensive",
        "currency",
        "no evaluations",
        "another method",
        "a trial's setting",
        "a value that the contract forbids",
        "suspended",
    ],
)
async def test_a_sweep_that_cannot_run_is_refused_as_a_whole(tmp_path, change, code, reason, place):
    async with trainer(tmp_path, {}) as talk:
        asked = await template(talk, [4, 8])
        if change.get("halving") is not None:
            asked.job.train.spec.evaluation.ClearField("every_steps")
            change = {"halving": {}}
        if "parameters" in change:
            asked.ClearField("parameters")
        asked.MergeFrom(json_format.ParseDict(change, sweep_pb2.SweepTemplate()))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await create(talk, asked)
        found, why, info, faults = refusal(refused.value)
        assert (found, why) == (code, reason)
        if place:
            assert faults[0].field == place
        else:
            assert info.metadata["expected_cost"]
        assert not (await talk.stub.ListSweeps(sweep_pb2.ListSweepsRequest())).sweeps
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_a_sweep_that_nobody_made_is_not_found_and_a_request_id_makes_one_sweep(tmp_path):
    async with trainer(tmp_path, {"steps": 1, "losses": LOSSES}) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await talk.stub.GetSweep(sweep_pb2.GetSweepRequest(name="0192"))
        assert refusal(missing.value)[:2] == ("NOT_FOUND", "SWEEP_NOT_FOUND")
        await create(talk, await template(talk, [4]), "one")
        with pytest.raises(grpc.aio.AioRpcError) as reused:
            await create(talk, await template(talk, [8]), "one")
        assert refusal(reused.value)[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        with pytest.raises(grpc.aio.AioRpcError) as token:
            await talk.stub.ListSweeps(sweep_pb2.ListSweepsRequest(page_token="x"))
        assert refusal(token.value)[:2] == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_the_sdk_follows_a_sweep_from_its_price_to_its_end(tmp_path):
    async with (
        trainer(tmp_path, {"steps": 4, "losses": LOSSES}, cpu_slots=2) as talk,
        AsyncClient(trainer_address=talk.address, profile="") as client,
    ):
        job = (await template(talk, [4])).job
        ranks = {"lora.rank": [4, 8], "training.learning_rate": {"low": 1e-4, "high": 5e-4}}
        priced = await client.validate_sweep(job, ranks, trials=2, seed=1)
        created = await client.create_sweep(job, ranks, trials=2, seed=1, max_cost="1 EUR", display_name="both")
        assert [trial.values for trial in created.trials] == [trial.values for trial in priced.sweep.trials]
        seen = [sweep async for sweep in client.watch_sweep(created.name)]
        assert (seen[0].state, seen[-1].state) == (RUNNING, SUCCEEDED)
        times = [sweep.update_time.ToMicroseconds() for sweep in seen]
        assert times == sorted(set(times))
        assert [sweep.name async for sweep in client.list_sweeps()] == [created.name]
        assert (await client.get_sweep(created.uid)).best_trial == seen[-1].best_trial
        assert (await client.cancel_sweep(created.uid)).state == SUCCEEDED
        with pytest.raises(InvalidArgument, match="list of values"):
            await client.create_sweep(job, {"lora.rank": 8})


async def job_file(folder, talk) -> Path:
    """A job file for a sweep, with its rows on the trainer."""
    file, dataset = folder / "job.yaml", (await talk.upload(jsonl(ROWS))).name
    held_out = "evaluation: {split_fraction: 0.1, every_steps: 2}"
    file.write_text(f"model: {{path: tiny}}\nlora: {{}}\ndataset: {{name: {dataset}}}\n{held_out}\n")
    return file


def command_of(talk, capsys):
    """The command, of which a call answers exit status, stdout and stderr."""

    async def command(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(entry.run, [*words, "--trainer", talk.address])
        return code, *capsys.readouterr()

    return command


async def test_the_command_prices_runs_and_shows_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", "")
    async with trainer(tmp_path, {"steps": 4, "losses": LOSSES}, cpu_slots=2) as talk:
        file, command = await job_file(tmp_path, talk), command_of(talk, capsys)
        code, out, err = await command("sweep", str(file), "--set", "lora.rank=4,8", "--price")
        assert (code, "lora.rank=8" in out, "time  2 min" in out) == (0, True, True), err
        code, out, err = await command("sweep", str(file), "--set", "lora.rank=4,8", "--name", "ranks")
        assert code == 0, err
        assert out.startswith("Best: trial 2 (lora.rank=8), eval_loss 1.75 (1.652 to 1.848)")
        assert "[2/2] trial" in err
        name = err.partition("sweep projects/default/sweeps/")[2].split()[0]
        code, out, _ = await command("sweeps", "show", name, "--json")
        assert (code, json.loads(out)["best_trial"]) == (0, 2)
        assert "ranks" in (await command("sweeps", "list"))[1]
        assert (await command("sweeps", "cancel", name))[0] == 0
        refused = await command("sweep", str(file), "--set", "lora.rnak=4,8")
        assert (refused[0], "rank" in refused[2]) == (2, True)
        assert (await command("sweep", str(file), "--set", "lora.rank"))[0] == 2


async def test_a_refused_sweep_names_the_option_and_a_price_is_held_against_the_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", "")
    async with trainer(tmp_path, {}) as talk:
        file, command = await job_file(tmp_path, talk), command_of(talk, capsys)

        async def said(*words: str) -> str:
            code, _, err = await command("sweep", str(file), "--price", *words)
            assert code == 2, err
            return err

        ranks, rates = ("--set", "lora.rank=4,8"), ("--set", "training.learning_rate=1e-4..5e-4")
        assert "error: --set training.learning_rate: cannot be part of a grid" in await said(
            *ranks, *rates, "--search", "grid"
        )
        assert "error: --set lora.r: lora has no field 'r'" in await said("--set", "lora.r=4")
        forbidden = await said("--set", "lora.rank=4,100000")
        assert "error: --set lora.rank: must be" in forbidden
        assert "(trial with lora.rank=100000)" in forbidden
        assert "error: --metric: 'accuracy' cannot decide" in await said(*ranks, "--metric", "accuracy")
        assert "error: --max-cost: is USD, and" in await said(*ranks, "--max-cost", "1 USD")
        code, out, err = await command("sweep", str(file), "--price", *ranks, "--max-cost", "0.1 EUR")
        assert (code, "lora.rank=8" in out) == (3, True)
        assert "more than --max-cost €0.10 [SWEEP_TOO_EXPENSIVE]" in err
        code, _, err = await command("sweep", str(file), *ranks, "--max-cost", "0.1 EUR")
        assert (code, "[SWEEP_TOO_EXPENSIVE]" in err) == (3, True)
