# SPDX-License-Identifier: Apache-2.0
"""The norm by hand equals transformers' own: to the bit forwards, within rounding backwards."""

from typing import Any

import pytest
import torch
from finetree_worker.training.fused import rms_norm
from finetree_worker.training.fused.levers import Lever, only
from finetree_worker.training.fused.rms_norm import by_hand
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def _norm(dtype: torch.dtype, *, frozen: bool = True) -> LlamaRMSNorm:
    made = LlamaRMSNorm(48, eps=1e-5).to(dtype)
    with torch.no_grad():
        made.weight.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(2))
    made.weight.requires_grad = not frozen
    return made


def _both(norm: LlamaRMSNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(3)
    x = (3 * torch.randn(1, 20, 48, generator=made)).to(dtype).requires_grad_()
    before = x.detach().clone()
    out = norm(x)
    grad = torch.randn(1, 20, 48, generator=made).to(dtype)
    (back,) = torch.autograd.grad(out, x, grad)
    assert torch.equal(x.detach(), before)
    return x, out.detach(), back


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_values_are_equal_to_the_bit_and_gradients_within_rounding(dtype: torch.dtype, tolerance: float) -> None:
    norm = _norm(dtype)
    _, plain, expected = _both(norm, dtype)
    with by_hand(norm):
        _, found, back = _both(norm, dtype)
    assert torch.equal(found, plain)
    assert back.dtype is dtype
    assert float((back - expected).float().norm()) < tolerance * float(expected.float().norm())


def test_its_gradient_is_that_of_the_formula() -> None:
    norm = _norm(torch.float32)
    x = torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(4)).requires_grad_()
    weight = norm.weight.detach().double()

    def formula(x: Tensor) -> Tensor:
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    (expected,) = torch.autograd.grad(formula(x.double()).sum(), x)
    with by_hand(norm):
        (found,) = torch.autograd.grad(norm(x).sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_trained_weight_has_autograds_gradient(dtype: torch.dtype, tolerance: float) -> None:
    norm = _norm(dtype, frozen=False)
    made = torch.Generator().manual_seed(5)
    x, grad = (torch.randn(1, 20, 48, generator=made).to(dtype) for _ in range(2))
    (expected,) = torch.autograd.grad(norm(x), norm.weight, grad)
    with by_hand(norm):
        (found,) = torch.autograd.grad(norm(x), norm.weight, grad)
    assert found.dtype is dtype
    assert float((found - expected).float().norm()) < tolerance * float(expected.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_have_the_values_of_the_whole(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    norm = _norm(dtype)
    with by_hand(norm):
        _, whole, back = _both(norm, dtype)
        # Of 20 rows, pieces of three and a last one of two.
        monkeypatch.setattr(rms_norm, "rows_of", lambda *_: 3)
        _, found, back_in_pieces = _both(norm, dtype)
    assert torch.equal(found, whole)
    assert torch.equal(back_in_pieces, back)


def test_only_norms_of_known_families_are_changed_and_only_inside(tiny: Any) -> None:
    trained, frozen, other = _norm(torch.float32, frozen=False), _norm(torch.float32), tiny("mixtral")
    whole = torch.nn.ModuleList([trained, frozen, other])
    with by_hand(whole):
        changed = [module for module in whole.modules() if "forward" in vars(module)]
    assert changed == [trained, frozen]
    assert not any("forward" in vars(module) for module in whole.modules())


def test_a_switch_and_another_type_keep_the_plain_way() -> None:
    norm = _norm(torch.float32)
    x = torch.randn(1, 4, 48).bfloat16()
    expected = norm(x)
    with by_hand(norm):
        assert torch.equal(norm(x), expected)
        with only(set(Lever) - {Lever.NORM}):
            out = norm(x.float().requires_grad_())
    assert "_RmsNorm" not in str(out.grad_fn)
