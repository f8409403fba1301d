"""Matrix products in bf16 on CPUs that have instructions for it, everything else in fp32.

``torch.autocast`` would have attention and norms in bf16 too, which is slower there, and round the
residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEAST = 200_000
"""Numbers an input has at least; for fewer the conversion costs more than it gains."""


def supported() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where the device multiplies it faster than fp32."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return HalfProducts() if supported() else nullcontext()


class HalfProducts(TorchFunctionMode):
    """While it is entered, linear layers of fp32 on the CPU round what they multiply to bf16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and _worth_it(args[0]):
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _worth_it(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= LEAST


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    answers: Tensor = _Product.apply(x.flatten(0, -2), weight)
    answers = answers.unflatten(0, x.shape[:-1])
    return answers if bias is None else answers + bias


class _Product(torch.autograd.Function):
    """(n, i) · (o, i)ᵀ → (n, o), fp32 in and out; its gradients likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        gradient = gradient.bfloat16()
        of_x = (gradient @ weight).float() if ctx.needs_input_grad[0] else None
        of_weight = (gradient.T @ x).float() if ctx.needs_input_grad[1] else None
        return of_x, of_weight
