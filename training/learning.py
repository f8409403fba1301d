"""Which weights learn: LoRA on the language model, the vision tower and the projector in full."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .arguments import StageConfig

LLM_LINEARS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
"""The language model's linear layers; the head, which reads out score tokens, stays as it is."""
ADAPTER = "default"


def prepare(model: Any, config: StageConfig, grown: Sequence[str] = ()) -> Any:
    """Freeze ``model``, then let learn what ``config`` says; returns peft's LoraConfig or None.

    What learns is kept in fp32: at these learning rates bf16 would round most updates away.
    ``grown``: names of tensors that got new rows and learn in full (App. C.2).
    """
    lora = None
    model.requires_grad_(False)
    if config.llm == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=2 * config.lora_rank,
            lora_dropout=config.lora_dropout,
            target_modules=LLM_LINEARS,
        )
        inject_adapter_in_model(lora, model, ADAPTER)
    for name, weight in model.named_parameters():
        weight.requires_grad_(_learns(name, config) or name in grown)
        # FSDP shards flat tensors of one dtype.
        if weight.requires_grad or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            weight.data = weight.data.float()
    return lora


def _learns(name: str, config: StageConfig) -> bool:
    if ".lora_" in name:
        return True
    if name.startswith("model.vision_tower."):
        return config.train_vision
    if name.startswith("model.multi_modal_projector."):
        return config.train_projector
    return config.llm == "full"


def learning(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def lora_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LoRA factors under the names peft stores them by."""
    mark = f".{ADAPTER}.weight"
    return {
        f"base_model.model.{name.removesuffix(mark)}.weight": tensor
        for name, tensor in state.items()
        if ".lora_" in name
    }


def plain_name(name: str) -> str:
    """A weight's name without the layer peft wrapped around it."""
    return name.replace(".base_layer.", ".")


def count(weights: Iterable[torch.Tensor]) -> int:
    return sum(weight.numel() for weight in weights)
