# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest
from finetree.testing import Suite

SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "hardware": {"accelerator": "rtx-4090"}}
ROWS = [{"prompt": "Two and two?", "completion": "Four."}]


@pytest.fixture(scope="session")
def chaos():
    """The proxy beside this file: tests are imported without their folders on the path."""
    spec = importlib.util.spec_from_file_location("finetree_chaos", Path(__file__).with_name("chaos.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.chaos


@pytest.fixture
def suite():
    with Suite() as running:
        yield running


@pytest.fixture
def spec(suite):
    """A spec that trains on a dataset of the suite."""
    return SPEC | {"dataset": {"name": suite.datasets.add(ROWS).name}}
