# SPDX-License-Identifier: Apache-2.0
"""Loading a base model: memory, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.qlora import Qlora
from finetree_worker.models import load as base_models
from finetree_worker.plan import Plan
from finetree_worker.training.run import load
from transformers import AutoModelForCausalLM
from worker_harness import METHODS

CPU = torch.device("cpu")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=["gpu", "host"])
def test_a_model_that_does_not_fit_is_no_unreadable_model(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def refusing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refusing)
    four_bit = Qlora(Lora()).quantization(torch.bfloat16)
    for dtype, quantization, advice in (
        (torch.float32, None, "Use qlora, bfloat16 weights, a smaller model,"),
        (torch.bfloat16, None, "Use qlora, a smaller model,"),
        (torch.bfloat16, four_bit, "Use a smaller model,"),
    ):
        with pytest.raises(MemoryExhaustedError, match="GiB are free") as refused:
            base_models.load_model(base_folder, dtype, device=CPU, quantization=quantization)
        assert (refused.value.reason, refused.value.field) == ("OUT_OF_MEMORY_LOADING", "model")
        assert refused.value.remedy.startswith(advice)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
@pytest.mark.parametrize(("kind", "mapped"), [("nf4", False), ("int8", False), ("lora", True)])
def test_a_quantized_base_does_not_keep_its_file_in_memory(plan: Plan, tmp_path: Path, kind: str, mapped: bool) -> None:
    """One tensor that is a view of the file would keep all of the unpacked weights beside the packed ones."""
    # Its own copy: models of other tests may not have been collected yet.
    own = Path(shutil.copytree(plan.base.folder, tmp_path / "base"))
    model = load(replace(plan, base=replace(plan.base, folder=own), method=METHODS[kind]), CPU)

    assert all(parameter.is_cpu for parameter in model.parameters())
    assert (str(own / "model.safetensors") in Path("/proc/self/maps").read_text()) is mapped


@pytest.mark.parametrize(("dtype", "way"), [(torch.float32, "mmap"), (torch.bfloat16, "pread")])
def test_weights_that_are_converted_are_read_without_a_mapping(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, way: str
) -> None:
    """The file's own type would be in memory whole beside the other one until all is read."""
    ways, opened = [], base_models.modeling_utils.safe_open  # type: ignore[attr-defined]  # transformers does not export it

    def noted(*arguments: object, backend: str, **more: object) -> object:
        ways.append(backend)
        return opened(*arguments, backend=backend, **more)

    monkeypatch.setattr(base_models.modeling_utils, "safe_open", noted)
    base_models.load_model(plan.base.folder, dtype, device=CPU)

    assert ways == [way]
    assert base_models.modeling_utils.safe_open is noted  # type: ignore[attr-defined]
