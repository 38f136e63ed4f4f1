# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' reading of published measurements: each row becomes the request that its source describes."""

import csv
import sys
from pathlib import Path

import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, training_pb2
from finetree_estimator.catalog import prices
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.server.validation import validate

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "estimator"))

from row_requests import request
from rows import GIB, MeasuredRow, measured_rows

PEFT = "github:huggingface/peft@1234567 method_comparison/result.json"
IBM = "github:atlarge-research/Kavier data.csv"
LITGPT = "github:Lightning-AI/litgpt tutorials/resource-tables.md"
FOUNDRY = "github:mosaicml/llm-foundry scripts/train/benchmarking/README.md"
ROW = {
    "source": PEFT,
    "model": "meta-llama/Llama-3.2-3B",
    "params_b": "3.21275",
    "method": "lora",
    "quant": "none",
    "rank": "32",
    "seq_len": "768",
    "micro_batch": "4",
    "grad_accum": "1",
    "grad_ckpt": "false",
    "attention": "transformers default (sdpa)",
    "optimizer": "AdamW",
    "precision": "bf16 weights; adapters fp32",
    "gpu": "NVIDIA L40S",
    "n_gpus": "1",
    "dataset_examples": "20000",
    "peak_mem_gib": "20.5",
    "tokens_per_s": "7000",
    "samples_per_s": "33",
    "total_seconds": "1200",
    "metric_value": "",
    "note": "(4198051 non-pad tokens over 20000 samples); trainable=9175040; targets=q_proj,v_proj",
}
IBM_ROW = {
    "source": IBM,
    "model": "llama3-8b",
    "params_b": "8",
    "rank": "4",
    "seq_len": "1024",
    "grad_accum": "",
    "grad_ckpt": "true",
    "attention": "flash_attention_2",
    "optimizer": "adamw_torch",
    "precision": "bf16",
    "gpu": "NVIDIA A100 80GB PCIe",
    "note": "NVML peak",
}
LITGPT_ROW = {
    "source": LITGPT,
    "model": "Llama 2",
    "params_b": "13",
    "method": "qlora",
    "quant": "bnb.nf4-dq",
    "rank": "8",
    "optimizer": "bnb PagedAdamW",
    "precision": "bf16-true",
    "gpu": "NVIDIA A100-SXM4-40GB",
    "note": "trainable=6553600",
}


@pytest.fixture
def read(tmp_path):
    def read_one(**changes: str) -> MeasuredRow:
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROW)
            writer.writeheader()
            writer.writerow(ROW | changes)
        return measured_rows(path)[0]

    return read_one


@pytest.fixture(scope="module")
def servicer():
    return EstimatorServicer(Knowledge(prices.packaged()))


def test_a_peft_row_is_the_run_that_its_note_describes(read, servicer):
    row = read()
    asked = request(row)
    validate(asked)

    assert (row.quantity, row.peak_bytes, row.family) == ("reserved", round(20.5 * GIB), "peft")
    assert asked.spec.program.program == training_pb2.TRAINING_PROGRAM_TRANSFORMERS
    assert asked.dataset_profile.total_tokens == 4198051
    assert servicer.estimate(asked).trainable_parameters == row.trainable == 9175040


def test_a_row_of_the_ibm_benchmark_is_full_to_the_limit_and_takes_its_defaults(read, servicer):
    row = read(**IBM_ROW)
    asked = request(row)

    assert (row.quantity, row.accumulation, row.targets) == ("device", 4, ("q_proj", "k_proj"))
    assert asked.spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_FULL
    assert [bucket.upper_bound for bucket in asked.dataset_profile.token_lengths] == [1024]
    assert servicer.estimate(asked).memory.device_bytes.expected > 0


def test_a_litgpt_row_is_told_by_its_size_and_trains_what_the_table_prints(read, servicer):
    row = read(**LITGPT_ROW)
    asked = request(row)

    assert (row.model, row.quantity) == ("llama-2-13b", "allocated")
    assert asked.spec.qlora.double_quantization
    assert servicer.estimate(asked).trainable_parameters == row.trainable


def test_a_row_longer_than_the_model_is_asked_for_by_shape_without_a_limit(read, servicer):
    row = read(**IBM_ROW | {"model": "llama-13b", "params_b": "13", "seq_len": "8192"})
    asked = request(row)

    assert asked.spec.model.shape.max_position_embeddings == 0
    assert servicer.estimate(asked).total_parameters == 13015864320


def test_several_devices_are_sharded_over_the_nodes_that_the_note_names(read):
    row = read(**IBM_ROW | {"n_gpus": "16", "note": "2 nodes, TCP"})
    hardware = request(row).spec.hardware

    assert (hardware.count, hardware.nodes, hardware.sharding) == (16, 2, hardware_pb2.SHARDING_FULL)
    assert request(row).spec.training.effective_batch_size == 4 * 4 * 16


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ia3"},
        {"optimizer": "lora-fa"},
        {"note": "exp=lora/llama-3.2-3B-rank14-target-mlp-bdlora; targets=q_proj"},
        {"source": IBM, "model": "granite-13b-v2", "params_b": "13"},
        {"source": FOUNDRY, "model": "MPT-1b", "method": "full", "precision": "amp_fp8"},
    ],
)
def test_what_the_estimator_does_not_know_is_not_asked(read, changes):
    row = read(**changes)

    assert not row.answerable
    with pytest.raises(ValueError, match="nothing to ask for"):
        request(row)


def test_a_run_out_of_memory_has_an_outcome_and_no_peak(read):
    row = read(**LITGPT_ROW | {"peak_mem_gib": "", "metric_value": "OOM"})

    assert (row.outcome, row.peak_bytes) == ("oom", None)


def test_a_source_that_nobody_described_is_read_by_its_words(read, servicer):
    changes = {
        "source": "github:somebody/torchtune-runs@abc README.md",
        "model": "Qwen/Qwen2.5-7B",
        "method": "qlora",
        "quant": "bnb.nf4",
        "optimizer": "PagedAdamW8bit",
        "precision": "bf16",
        "attention": "flash_attention_2",
        "gpu": "NVIDIA GeForce RTX 4090",
        "note": "nvidia-smi; LoRA on all linear layers; chunked cross-entropy",
    }
    row = read(**changes)
    asked = request(row)
    validate(asked)

    assert (row.family, row.quantity, row.accelerator) == ("somebody/torchtune-runs", "device", "rtx-4090")
    assert asked.spec.program.program == training_pb2.TRAINING_PROGRAM_TORCHTUNE
    assert asked.spec.loss_kernel == training_pb2.LOSS_KERNEL_CHUNKED
    assert asked.spec.optimizer == training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT
    assert asked.spec.qlora.lora.targets == method_pb2.TARGET_PRESET_ALL_LINEAR
    assert servicer.estimate(asked).memory.device_bytes.expected > 0


@pytest.mark.parametrize("changes", [{"gpu": "Abacus 3000"}, {"quant": "aqlm"}, {"optimizer": "muon"}])
def test_words_that_the_estimator_does_not_know_leave_a_row_unasked(read, changes):
    assert not read(**changes).answerable
