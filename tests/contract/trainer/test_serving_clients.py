# SPDX-License-Identifier: Apache-2.0
"""A served base model through the SDK, asynchronous and synchronous, and through the command."""

import asyncio
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import finetree
import httpx2
import openai
import pytest
from finetree_api.trainer.v1 import job_pb2, serving_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2
from finetree_cli import __main__ as entry
from trainer_harness import ROWS, job_request, jsonl, trainer

SCRIPT = {"steps": 2, "adapter": True, "words": 2}


def module_of(file: str) -> ModuleType:
    """A file of another folder of tests, which are no packages."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, Path(__file__).parents[2] / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONSOLE, WEIGHT_FILES = module_of("contract/console/conftest.py"), module_of("unit/data/weights/weight_files.py")


async def trained(talk) -> str:
    """A job that has made an adapter."""
    job = (await talk.train()).name
    await talk.events(job)
    return job


async def command(monkeypatch, capsys, talk, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("FINETREE_ADDRESS", f"http://{talk.address}")
    code = await asyncio.to_thread(entry.run, list(arguments))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


async def test_the_asynchronous_client_serves_a_job_and_ends_it(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk, finetree.AsyncClient(talk.address) as client:
        job = client.job(await trained(talk))
        async with await client.serve(job, lease=60, max_context_tokens=64) as serving:
            answers = serving.generate("one two", targets=["base", "trained"], max_new_tokens=3)
            pieces = [piece async for piece in answers]
            assert {piece.target for piece in pieces} == {"base", "trained"}
            assert answers.texts == {"base": "base:one two 0 ", "trained": "trained:one two 0 "}
            assert answers.finishes["base"].reason == serving_pb2.FINISH_REASON_STOP
            assert answers.usage is not None
            assert answers.usage.new_tokens == 3
            assert await serving.chat("hello", targets=["base"]) == {"base": "base:hello 0 1 "}
            await serving.load("again", job)
            listed = await serving.targets()
            assert [target.name for target in listed.targets] == ["trained", "again"]
            assert listed.targets[0].weights.artifact == f"{job.name}/artifacts/adapter"
            with pytest.raises(finetree.InvalidArgument) as long:
                await serving.chat("refuse PROMPT_TOO_LONG")
            assert str(long.value) == "prompt: It is refused: PROMPT_TOO_LONG. Ask for less. [PROMPT_TOO_LONG]"
            await serving.unload("again")
            with pytest.raises(finetree.NotFound) as error:
                await serving.chat("hello", targets=["again"])
            assert (error.value.reason, error.value.metadata["loaded"]) == ("TARGET_NOT_LOADED", "trained")
        assert (await serving.job.wait()).state == job_pb2.JOB_STATE_CANCELLED
        with pytest.raises(finetree.NotFound, match="ARTIFACT_NOT_FOUND"):
            await client.serve("tiny", targets={"x": serving.job})


async def test_the_synchronous_client_asks_several_at_once_and_ends_an_answer_early(tmp_path):
    def talk_to(address: str, name: str) -> list[str]:
        with finetree.Client(address) as client:
            served = client.serve(client.job(name), targets={"one": name, "two": name}, max_context_tokens=64)
            with served as serving:
                whole = serving.chat([{"role": "user", "content": "hi"}], system="Be kind.")
                with serving.generate("a", targets=["two"]) as answers:
                    first = next(answers)
                assert list(answers) == []
                return [*sorted(whole.values()), first.text]

    async with trainer(tmp_path, SCRIPT) as talk:
        name = await trained(talk)
        said = await asyncio.to_thread(talk_to, talk.address, name)
        assert said == ["base:hi 0 1 ", "one:hi 0 1 ", "two:hi 0 1 ", "two:a "]


async def test_a_served_model_that_cannot_be_ready_raises_what_became_of_it(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk, finetree.AsyncClient(talk.address) as client:
        name = await trained(talk)
        other = await client.serve(client.job(name), max_context_tokens=64)
        await other.wait_ready()
        waiting = await client.serve(client.job(name), max_context_tokens=64)
        with pytest.raises(finetree.FinetreeTimeout):
            await waiting.wait_ready(timeout=0.3)
        with pytest.raises(finetree.FailedPrecondition, match="NOT_SERVING"):
            await waiting.chat("hello")
        await waiting.end()
        with pytest.raises(finetree.JobFailed, match="cancelled"):
            await waiting.wait_ready()
        await other.end()


async def test_chat_answers_side_by_side_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await trained(talk)
        label = job[-12:]
        ask = ("chat", job, "--against", "base", "-m", "hello there", "--max-new-tokens", "2")
        code, out, err = await command(monkeypatch, capsys, talk, *ask)
        assert code == 0, err
        assert out == f"{label}:\n{label}:hello there \n\nbase:\nbase:hello there \n\n"
        (told,) = [line for line in err.splitlines() if "tokens, stop" in line]
        assert f"{label}: 2 tokens, stop; base: 2 tokens, stop; first token after 0.10 s" in told
        code, out, _ = await command(monkeypatch, capsys, talk, *ask, "--json", "--keep")
        answers = json.loads(out)["answers"]
        assert [(each["target"], each["text"]) for each in answers] == [
            (label, f"{label}:hello there "),
            ("base", "base:hello there "),
        ]
        states = [each.state for each in await serving_jobs(talk)]
        assert sorted(states) == [job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_CANCELLED]
        # The one that was kept is used, and left as it is.
        code, out, err = await command(monkeypatch, capsys, talk, "chat", job, "-m", "hello", "--max-new-tokens", "1")
        assert (code, out) == (0, f"{label}:hello \n")
        assert "serves the base model already" in err
        code, _, err = await command(monkeypatch, capsys, talk, "chat", job, "--against", job, "-m", "hello")
        assert (code, "is named twice" in err) == (2, True)
        code, _, err = await command(monkeypatch, capsys, talk, "chat", "base", "-m", "hello")
        assert (code, "JOB must be a job" in err) == (2, True)


async def test_chat_tells_jobs_of_one_name_apart(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        jobs = [(await talk.train(display_name="nightly")).name for _ in range(2)]
        for job in jobs:
            await talk.events(job)
        ask = ("chat", jobs[0], "--against", jobs[1], "-m", "hello", "--max-new-tokens", "1")
        code, out, err = await command(monkeypatch, capsys, talk, *ask)
        assert code == 0, err
        ids = [job[-12:] for job in jobs]
        assert out == "".join(f"nightly ({name}):\n{name}:hello \n\n" for name in ids)


async def test_chat_loads_the_base_in_the_bits_of_training_where_all_agree(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        plain, data = await trained(talk), (await talk.upload(jsonl(ROWS))).name
        request = job_request(data)
        request.train.spec.qlora.SetInParent()
        four = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job.name
        await talk.events(four)
        for against, loaded in (((), True), (("--against", "base"), True), (("--against", plain), False)):
            ask = ("chat", four, *against, "-m", "hello", "--max-new-tokens", "1", "--top-k", "3")
            code, _, err = await command(monkeypatch, capsys, talk, *ask)
            assert code == 0, err
            served = max(await serving_jobs(talk), key=lambda job: job.create_time.ToNanoseconds())
            kind = method_pb2.QUANTIZATION_NF4 if loaded else method_pb2.QUANTIZATION_UNSPECIFIED
            assert served.serve.quantization == kind


async def serving_jobs(talk) -> list[job_pb2.Job]:
    async with finetree.AsyncClient(talk.address) as client:
        found = [job async for job in client.list_jobs(tasks=["serve"])]
        return [
            await client.job(job.name).wait() if job.state == job_pb2.JOB_STATE_CANCELLING else job for job in found
        ]


async def test_serve_and_targets_show_and_change_what_is_loaded(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await trained(talk)
        code, out, err = await command(
            monkeypatch, capsys, talk, "serve", job[-36:], "--target", f"support={job}", "--lease", "1h", "--json"
        )
        assert code == 0, err
        served = json.loads(out)
        assert served["serve"]["lease"] == "3600s"
        assert [target["name"] for target in served["serve"]["loaded"]] == ["support"]
        # A chat asks what is loaded already, whatever its name.
        code, out, _ = await command(monkeypatch, capsys, talk, "chat", job, "-m", "hi", "--max-new-tokens", "1")
        assert (code, out) == (0, "support:hi \n")
        code, out, _ = await command(monkeypatch, capsys, talk, "targets", "list", served["name"])
        assert job[-12:] + " " not in out
        code, out, _ = await command(monkeypatch, capsys, talk, "targets", "load", served["name"], f"late={job}")
        assert (code, out) == (0, "late is loaded\n")
        code, out, _ = await command(monkeypatch, capsys, talk, "targets", "list", served["name"])
        assert f"{job}/artifacts/adapter" in out
        assert "Lease until" in out
        code, out, _ = await command(monkeypatch, capsys, talk, "capacity")
        assert f"Serving: {served['uid']}" in out
        code, out, _ = await command(monkeypatch, capsys, talk, "targets", "unload", served["name"], "late")
        assert (code, out) == (0, "late is removed\n")
        code, _, err = await command(monkeypatch, capsys, talk, "targets", "unload", served["name"], "late")
        assert (code, "TARGET_NOT_LOADED" in err) == (2, True)


async def test_the_console_streams_answers_as_events_and_refuses_with_a_status(tmp_path):
    def ask(trainer_address: str, job: str) -> tuple[list[dict], list[tuple[int, str]]]:
        with (
            CONSOLE.serving(None, trainer_address=trainer_address) as address,
            httpx2.Client(base_url=f"http://{address}") as http,
        ):
            path, question = "/trainer/v1/Generate", {"job": job, "prompt": "one two", "targets": ["trained", "base"]}
            answered = http.post(path, json=question)
            assert answered.headers["content-type"] == "text/event-stream"
            events = [json.loads(line[6:]) for line in answered.text.splitlines() if line.startswith("data: ")]
            refusals = []
            for wrong in ({"targets": ["none"]}, {"prompt": None}, {"sampling": {"temperature": -1}}, {"job": "none"}):
                refused = http.post(path, json=question | wrong)
                refusals.append((refused.status_code, refused.json()["error"]["reason"]))
            return events, refusals

    async with trainer(tmp_path, SCRIPT) as talk, finetree.AsyncClient(talk.address) as client:
        job = client.job(await trained(talk))
        async with await client.serve(job, max_context_tokens=64) as serving:
            events, refusals = await asyncio.to_thread(ask, talk.address, serving.job.name)
    assert events[0]["targets"] == ["trained", "base"]
    texts = {0: "", 1: ""}
    for piece in (piece for event in events for piece in event["pieces"]):
        texts[piece["target_index"]] += piece["text"]
    assert texts == {0: "trained:one two 0 1 ", 1: "base:one two 0 1 "}
    assert ["usage" in event for event in events] == [*[False] * (len(events) - 1), True]
    assert refusals == [
        (404, "TARGET_NOT_LOADED"),
        (400, "INVALID_REQUEST"),
        (400, "INVALID_REQUEST"),
        (404, "JOB_NOT_FOUND"),
    ]


def page_commands() -> list[str]:
    """What docs/chat.md says to type, but the conversation, which needs a terminal."""
    page = (Path(__file__).parents[3] / "docs/chat.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("finetree ")]
    return [line for line in lines if not line.startswith("finetree chat ") or " -m " in line]


async def test_the_commands_of_the_page_do_what_it_says(tmp_path, monkeypatch, capsys):
    (tmp_path / "models/adapters").mkdir(parents=True)
    WEIGHT_FILES.peft_adapter(tmp_path / "models/adapters/theirs")
    names = {"SERVING": ""}
    async with trainer(tmp_path, SCRIPT | {"steps": 200, "checkpoints": [200]}, cpu_slots=2) as talk:
        for name in ("OTHER_JOB", "JOB"):
            names[name] = await trained(talk)
        for line in page_commands():
            words = shlex.split(line, comments=True)[1:]
            for name, meant in names.items():
                words = [re.sub(rf"\b{name}\b", meant, word) for word in words]
            code, out, err = await command(monkeypatch, capsys, talk, *words)
            assert code == 0, (line, err)
            if words[0] == "serve":
                names["SERVING"] = out.splitlines()[0]
        ended = await talk.events(names["SERVING"])
        assert ended[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED


async def test_openai_clients_chat_with_a_target_that_is_served(tmp_path):
    def ask(trainer_address: str, job: str) -> None:
        with (
            CONSOLE.serving(None, trainer_address=trainer_address) as address,
            openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0) as client,
        ):
            chat = client.chat.completions
            serving = [model.id for model in client.models.list() if model.id.startswith(f"{job}/")]
            assert serving == [f"{job}/base", f"{job}/trained"]
            for model in serving:
                assert client.models.retrieve(model).id == model
                answer = chat.create(model=model, messages=[{"role": "user", "content": "hi"}])
                assert answer.choices[0].message.content == f"{model.rpartition('/')[2]}:hi 0 1 "
            said = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "one two"}]
            for model in ("trained", f"{job}/trained", f"ft:tiny::{trained_uid}"):
                answer = chat.create(model=model, messages=said, max_tokens=3)
                assert answer.choices[0].message.content == "trained:one two 0 "
                assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 3)
            chunks = list(
                chat.create(model="acme/tiny", messages=said, stream=True, stream_options={"include_usage": True})
            )
            assert (
                "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == "base:one two 0 1 "
            )
            assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "stop"
            assert chunks[-1].usage.completion_tokens == 4
            with pytest.raises(openai.NotFoundError) as error:
                chat.create(model="gpt-4o", messages=said)
            assert (error.value.code, error.value.param) == ("NOT_SERVING", "model")
            for wrong, param in (
                ({"n": 2}, "n"),
                ({"logprobs": True}, "logprobs"),
                ({"temperature": "hot"}, "temperature"),
            ):
                with pytest.raises(openai.BadRequestError) as error:
                    chat.create(model="trained", messages=said, extra_body=wrong)
                assert error.value.param == param
            with pytest.raises(openai.BadRequestError) as error:
                chat.create(model="trained", messages=[{"role": "user", "content": "refuse NO_CHAT_TEMPLATE"}])
            assert error.value.code == "NO_CHAT_TEMPLATE"

    async with trainer(tmp_path, SCRIPT) as talk, finetree.AsyncClient(talk.address) as client:
        job = client.job(await trained(talk))
        trained_uid = job.name.rpartition("/")[2]
        async with await client.serve(job, max_context_tokens=64) as serving:
            await asyncio.to_thread(ask, talk.address, serving.job.name.rpartition("/")[2])
