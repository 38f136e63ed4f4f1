# SPDX-License-Identifier: Apache-2.0
"""Run in an environment with transformers 4: load each artifact as its receiver does, and keep what it computes.

python other_transformers.py CASES.json ADAPTER_FORMAT.md OUTPUT.safetensors; a case is {"name", "artifact", "base",
"kind", "auto_class"}. Adapter layers are loaded by the code of the page that describes their format.
"""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoTokenizer

TEXT = "one <end> two <tool><x>"


def code_of(page: str) -> dict[str, Any]:
    """What the Python block of the page defines."""
    (block,) = re.findall(r"```python\n(.*?)```", Path(page).read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, page, "exec"), names)
    return names


def loaded(case: dict[str, str], page: str) -> Any:
    read: Any = getattr(transformers, case["auto_class"]).from_pretrained
    if case["kind"] == "full":
        model, report = read(case["artifact"], dtype=torch.float32, output_loading_info=True)
        assert not any(report.values()), (case["name"], report)
        return model
    base = read(case["base"], dtype=torch.float32)
    if case["kind"] == "adapter":
        code_of(page)["add_adapter"](base, Path(case["artifact"]))
        return base
    with warnings.catch_warnings():
        # A tensor that finds no place is only warned of.
        warnings.filterwarnings("error", message=".*(?:missing|unexpected) adapter keys")
        return PeftModel.from_pretrained(base, case["artifact"])


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    cases, page, output = sys.argv[1:]
    found = {}
    for case in json.loads(Path(cases).read_text(encoding="utf-8")):
        model = loaded(case, page).eval()
        tokens = AutoTokenizer.from_pretrained(case["artifact"])(TEXT, return_tensors="pt")
        assert set(tokens) == {"input_ids", "attention_mask"}, (case["name"], set(tokens))
        with torch.no_grad():
            found[f"{case['name']}.logits"] = model(input_ids=torch.arange(50)[None]).logits.contiguous()
        found[f"{case['name']}.tokens"] = tokens["input_ids"]
    save_file(found, output, metadata={"transformers": transformers.__version__})


main()
