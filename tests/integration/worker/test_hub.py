# SPDX-License-Identifier: Apache-2.0
"""From a hub to a trained adapter: trainer, workers and `huggingface_hub` are real, the hub is on loopback."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.config.values import Secret

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CONTRACT = Path(__file__).parents[2] / "contract"
END = "<|im_end|>"
ID = "acme/Tiny-Chat"


def helper(name: str, file: Path) -> Any:
    """A module of the contract tests: test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def hub() -> Any:
    with helper("hub_server", CONTRACT / "worker" / "models" / "hub_server.py").Hub() as running:
        yield running


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a tiny random Llama in shards, with a byte tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(letters, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chat") / "model"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="64KB")
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def run(talk: Any, request: job_pb2.JobTemplate) -> tuple[job_pb2.Job, list[event_pb2.JobEvent]]:
    job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
    return job, await talk.events(job.name, seconds=100.0)


async def test_a_gated_model_of_a_hub_is_fetched_with_the_services_token_and_trained(
    hub: Any, chat_model: dict[str, bytes], worker_command: tuple[str, ...], tmp_path: Path
) -> None:
    harness = helper("trainer_harness", CONTRACT / "trainer" / "harness.py")
    server = sys.modules["hub_server"]
    hub.repos[ID] = server.Repo(dict(chat_model), gated=True)
    settings = {"worker_command": worker_command, "prewarm": True, "worker_heartbeat": 20.0, "exit_grace": 15.0}
    settings |= {"hub_endpoint": hub.url, "hub_token": Secret(hub.token)}
    try:
        async with harness.trainer(tmp_path, **settings) as talk:
            prepare = job_pb2.JobTemplate()
            prepare.prepare.model.hub.id = ID
            _, events = await run(talk, prepare)
            assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
            progress = [event.phase_progress for event in events if event.HasField("phase_progress")]
            assert progress[-2].done == progress[-2].total == sum(map(len, chat_model.values()))
            assert {each.phase for each in progress} == {job_pb2.JOB_PHASE_DOWNLOAD_MODEL}

            request = harness.job_request((await talk.upload(harness.jsonl(harness.ROWS))).name)
            request.train.spec.model.CopyFrom(model_pb2.ModelSource(hub=model_pb2.HubModel(id=ID)))
            request.train.spec.training.max_steps = 2
            request.train.spec.training.sequence_length = 128
            job, trained = await run(talk, request)
            assert trained[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, trained[-1]
            made = [event.artifact_ready.artifact for event in trained if event.HasField("artifact_ready")]
            assert (made[0].base.hub_id, made[0].base.revision) == (ID, server.COMMIT)
            assert job.base.revision == server.COMMIT

            assert "/resolve/" not in str(events)
            assert hub.token not in str(events) + str(trained)
    finally:
        harness.end_workers(tmp_path)
    config = next((tmp_path / "data" / "jobs").rglob("adapter_config.json"))
    assert json.loads(config.read_text())["base_model_name_or_path"] == ID
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not [path for path in kept if hub.token.encode() in path.read_bytes()]
