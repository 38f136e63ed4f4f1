# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.base import PRESETS, LoraAdapters
from finetree_estimator.run import Rows, Run

GIB = 1024**3


@pytest.fixture
def gpu():
    return Device("test GPU", False, 80 * GIB, 160e12, 0.3, 0.25, 2e12, 400.0)


@pytest.fixture
def cpu():
    return Device("test CPU", True, 16 * GIB, 0.5e12, 0.35, 0.35, 10e9, 54.0, cores=2)


@pytest.fixture
def make_run(gpu):
    """A LoRA run of Llama-3.2-3B on a GPU, with any field replaced."""

    def make(**changes: object) -> Run:
        run = Run(
            shape=model("llama-3.2-3b").shape,
            method=LoraAdapters(8, PRESETS["all-linear"], 0.1),
            device=gpu,
            devices=1,
            micro_batch=4,
            batch=16,
            sequence_length=512,
            packing=False,
            rows=Rows(1000, 200.0, 45_000.0, 512, 0.5),
            steps=189,
            weight_bytes=2,
            compute_bytes=2,
            master_bytes=4,
            optimizer="adamw",
        )
        return replace(run, **changes)

    return make
