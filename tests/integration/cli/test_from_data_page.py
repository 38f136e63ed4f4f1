# SPDX-License-Identifier: Apache-2.0
"""docs/from-data-to-a-served-adapter.md, its commands run one after another by a shell, as its reader would."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycountry
import pytest
from finetree_cli.backends.suite import Suite
from finetree_data.weights.fingerprint import fingerprint
from finetree_worker.atomic_files import read_manifest, seal
from safetensors.numpy import save_file

pytestmark = [pytest.mark.slow(60), pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[3] / "docs/from-data-to-a-served-adapter.md"
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def rows(countries) -> str:
    """Questions after a country's code, and the code."""
    return "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is the alpha-3 code of {country.name}?"},
                    {"role": "assistant", "content": country.alpha_3},
                ]
            }
        )
        + "\n"
        for country in countries
    )


SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
"""What the page's model has here in place of its 30 layers: no command of the page says what a model has learned."""


def small(model: Path, folder: Path) -> None:
    """Write the page's model with its own tokenizer and random weights of `SHAPE`: a step takes milliseconds."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("model.safetensors", "base.json", "manifest.json"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | SHAPE
    config["dtype"] = config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    width, inner, key = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["head_dim"]
    attention = {"q_proj": (width, width), "k_proj": (key, width), "v_proj": (key, width), "o_proj": (width, width)}
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    shapes = {"model.embed_tokens": (config["vocab_size"], width), "model.norm": (width,)}
    for layer in (f"model.layers.{number}" for number in range(SHAPE["num_hidden_layers"])):
        shapes |= {f"{layer}.self_attn.{name}": shape for name, shape in attention.items()}
        shapes |= {f"{layer}.mlp.{name}": shape for name, shape in mlp.items()}
        shapes |= {f"{layer}.{name}": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    random = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": random.normal(0, 0.02, shape) if len(shape) == 2 else np.ones(shape)
        for name, shape in shapes.items()
    }
    as_float32 = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(as_float32, folder / "model.safetensors", {"format": "pt"})
    (folder / "base.json").write_text(json.dumps({"fingerprint": fingerprint(folder)}), encoding="utf-8")
    facts = read_manifest(model)
    assert facts is not None
    facts.pop("files")
    seal(folder, facts)


@pytest.fixture(scope="module")
def suite(smollm2, tmp_path_factory) -> Iterator[Suite]:
    """A suite of the page's own, since its estimator learns from what is trained; it has the model already."""
    folder = tmp_path_factory.mktemp("suite")
    small(smollm2, folder / "trainer" / "models" / smollm2.name)
    with Suite(folder, extra={"trainer": ("--no-prewarm",)}) as running:
        yield running


def test_the_page_does_what_it_says(suite, tmp_path):
    countries = list(pycountry.countries)
    (tmp_path / "train.jsonl").write_text(rows(countries[:4]), encoding="utf-8")
    (tmp_path / "held-out.jsonl").write_text(rows(countries[24:28]), encoding="utf-8")
    addresses = {f"FINETREE_{name.upper()}_ADDRESS": address for name, address in suite.addresses.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -euo pipefail\n" + "".join(SCRIPTS)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **addresses, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for said in ("base:", "95% intervals", "learning_rate=", "Settings that differ", "programs  accelerate"):
        assert said in done.stdout, said
    assert (tmp_path / "compare.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert list((tmp_path / "adapter").rglob("adapter_config.json"))
    (exported,) = (tmp_path / "exported").rglob("*.gguf")
    assert exported.read_bytes()[:4] == b"GGUF"


def test_every_command_of_the_page_is_run_or_needs_a_server():
    shown = re.findall(r"^(?:\w+=\$\()?finetree (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    run = [line for script in SCRIPTS for line in script.splitlines() if "finetree" in line]
    assert len(shown) - len(run) == 2
