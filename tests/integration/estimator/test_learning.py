# SPDX-License-Identifier: Apache-2.0
"""A real run on this machine teaches the estimator: its next estimate for the same device is nearer to the truth."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finetree import Client
from finetree_api.types.v1 import evidence_pb2, method_pb2
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROWS = [{"prompt": f"Count to {n}.", "completion": "one " * n} for n in range(1, 33)]
SPEC = {
    "model": {"path": "tiny"},
    "lora": {"rank": 4},
    # Every CPU multiplies it fast: not all have instructions for bfloat16.
    "precision": "PRECISION_FP32",
    "training": {"max_steps": 12, "effective_batch_size": 4, "micro_batch_size": 4, "sequence_length": 128},
}


def random_model(folder: Path) -> None:
    """A small random Llama with a byte tokenizer, as a prepared model's folder holds it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(letters, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = "<|im_end|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token=end)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Rig:
    """A running suite with one small model, and a client of it."""

    def __init__(self, folder: Path) -> None:
        random_model(folder / "models" / "tiny")
        root = str(folder / "models")
        extra = {"trainer": ("--model-roots", root, "--no-prewarm"), "estimator": ("--model-root", root)}
        self.suite = Suite(folder / "data", extra=extra)
        self.suite.start()
        self.client = Client(**{f"{name}_address": address for name, address in self.suite.addresses.items()})

    def close(self) -> None:
        self.client.close()
        self.suite.stop()


@pytest.fixture(scope="module")
def rig(tmp_path_factory) -> Iterator[Rig]:
    running = Rig(tmp_path_factory.mktemp("learning"))
    yield running
    running.close()


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true answer; the trainer reports in the background."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "nothing was reported in time"
        time.sleep(0.05)
    return found


def off(interval: evidence_pb2.Interval, measured: float) -> float:
    return abs(math.log(interval.expected / measured))


def test_a_run_is_observed_and_the_next_estimate_is_nearer_to_what_it_measured(rig):
    spec = SPEC | {"dataset": {"name": rig.client.upload_dataset(ROWS).name}}
    job = rig.client.create_job(spec)
    job.wait(timeout=180, check=True)
    found = until(lambda: rig.client.get_calibration() if rig.client.get_calibration().points else None)

    point, entry = found.points[0], found.entries[0]
    assert (point.job, point.attempt, point.method) == (job.name, 1, method_pb2.METHOD_LORA)
    assert point.measured_step_seconds > 0
    assert point.predicted_step_seconds > 0
    assert entry.step_time_factor.expected != 1

    reports = [event.dataset_report for event in job.events() if event.HasField("dataset_report")]
    resolved = rig.client.get_job(job.name).train.spec
    known = {"dataset_profile": reports[-1].profile, "matrix_rates": rig.client.capacity().nodes[0].matrix_rates}
    learned = rig.client.estimate(resolved, **known)
    assert learned.revision.calibration == found.calibration
    assert off(learned.time.step_seconds, point.measured_step_seconds) < abs(
        math.log(point.predicted_step_seconds / point.measured_step_seconds)
    )
    predicted = evidence_pb2.Interval(expected=point.predicted_device_bytes)
    assert off(learned.memory.device_bytes, point.measured_device_bytes) < off(predicted, point.measured_device_bytes)

    assert rig.client.reset_calibration() == 1
    again = rig.client.estimate(resolved, **known)
    assert again.time.step_seconds.expected == pytest.approx(point.predicted_step_seconds)
