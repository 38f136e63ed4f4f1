# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import LengthRange, Rows, Run

GIB = 1024**3


@pytest.fixture
def gpu():
    return Device(
        "test GPU",
        is_cpu=False,
        usable_bytes=80 * GIB,
        training_flops=160e12,
        rate_below=0.3,
        rate_above=0.25,
        bandwidth=2e12,
        watts=400.0,
    )


@pytest.fixture
def cpu():
    return Device(
        "test CPU",
        is_cpu=True,
        usable_bytes=16 * GIB,
        training_flops=0.5e12,
        rate_below=0.35,
        rate_above=0.35,
        bandwidth=10e9,
        watts=54.0,
        cores=2,
    )


@pytest.fixture
def make_run(gpu):
    """A LoRA run of Llama-3.2-3B on a GPU, with any field replaced."""

    def make(**changes: object) -> Run:
        run = Run(
            shape=model("llama-3.2-3b").shape,
            method=Lora(8, PRESETS["all-linear"], 0.1),
            device=gpu,
            devices=1,
            micro_batch=4,
            batch=16,
            sequence_length=512,
            packing=False,
            rows=Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5),
            steps=189,
            weight_bytes=2,
            compute_bytes=2,
            master_bytes=4,
            optimizer="adamw",
        )
        return replace(run, **changes)

    return make


@pytest.fixture
def mixed(make_run):
    """A run of transformers' Trainer on rows of 52 to 2,048 tokens, one at a time, in windows of sixteen."""
    return make_run(
        program=TRANSFORMERS,
        micro_batch=1,
        sequence_length=2048,
        rows=Rows(
            count=1000,
            mean=1050.0,
            mean_square=1.4e6,
            longest=2048,
            target_fraction=1.0,
            length_ranges=(LengthRange(52, 1000, 0.5), LengthRange(1001, 2048, 0.5)),
        ),
        loss="full-logits",
        checkpointing=True,
        steps=63,
    )
