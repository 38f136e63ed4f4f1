# SPDX-License-Identifier: Apache-2.0
"""A local hub, and a model for it. Makes the hub importable as `hub_server`: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

import pytest

if "hub_server" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["hub_server"] = _module
    _spec.loader.exec_module(_module)


@pytest.fixture
def hub():
    """A hub that is up."""
    with sys.modules["hub_server"].Hub() as running:
        yield running


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """The files of a tiny Llama with random weights, in two shards."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="64KB")
    return {path.name: path.read_bytes() for path in folder.iterdir()}
