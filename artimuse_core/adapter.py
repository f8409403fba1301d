"""PEFT adapters: LoRA over a base checkpoint, with whatever was trained in full beside it.

An adapter directory holds ``adapter_config.json`` (which names the base), LoRA factors in
``adapter_model.safetensors`` and, in further ``*.safetensors``, tensors that replace the base's own
(the vision tower and the projector, in the paper's recipe). Names may be of either layout and may
have been written around the whole model or around the language model alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import MissingExtraError, ModelError
from .images import one_line
from .models import locate
from .weights import ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration

CONFIG = "adapter_config.json"
_NAME = "default"
_LORA = re.compile(r"(?P<module>.+)\.(?P<factor>lora_[A-Za-z_]+)(\.[^.]+)?\.weight$")


def is_adapter(directory: Path) -> bool:
    return (directory / CONFIG).is_file()


def base(directory: Path) -> Path:
    """Where the base model's weights lie; the directory itself where it is no adapter."""
    if not is_adapter(directory):
        return directory
    name = _config(directory).get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{directory / CONFIG} does not say its base_model_name_or_path")
    beside = directory / name
    found = beside if beside.is_dir() else locate(name)
    if is_adapter(found):
        raise ModelError(f"the base of {directory} is {found}, itself an adapter; merge that first")
    return found


def home(directory: Path) -> Path:
    """Where configuration and tokenizer lie: the adapter's own, otherwise its base's."""
    return directory if (directory / "config.json").is_file() else base(directory)


def merge(
    model: InternVLForConditionalGeneration, directory: Path, native_name: Callable[[str], str]
) -> InternVLForConditionalGeneration:
    """Add the LoRA updates to the model's own weights; returns the plain model."""
    try:
        from peft import LoraConfig, LoraModel, PeftConfig
    except ImportError as error:
        raise MissingExtraError("peft", "torch") from error

    factors = _factors(directory, native_name)
    if not factors:
        return model
    config = PeftConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig):
        raise ModelError(f"{directory} is a {config.peft_type} adapter; only LoRA is supported")
    if config.use_dora:
        raise ModelError(f"{directory} is a DoRA adapter; only plain LoRA is supported")
    modules = sorted({name.rpartition(".lora_")[0] for name in factors})
    strange = [module for module in modules if not _is_linear(model, module)]
    if strange:
        raise ModelError(
            f"{directory} adapts {len(strange)} modules that this model does not have "
            f"(first: {strange[0]}); is it for another base?"
        )
    # The stored names say exactly what was adapted; patterns in the file are of its own layout.
    config.target_modules = set(modules)
    config.exclude_modules = config.layers_to_transform = config.modules_to_save = None
    config.inference_mode = True
    adapted = LoraModel(model, config, _NAME)
    given = {}
    for name, tensor in factors.items():
        module, _, factor = name.rpartition(".lora_")
        given[f"model.{module}.lora_{factor.replace('.', f'.{_NAME}.', 1)}"] = tensor
    try:
        outcome = adapted.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{directory} does not fit its base: {one_line(error)}") from error
    left = [name for name in outcome.missing_keys if ".lora_" in name]
    if left or outcome.unexpected_keys:
        first = (left + outcome.unexpected_keys)[0]
        raise ModelError(f"{directory}: LoRA factors do not come in pairs (first: {first})")
    merged: InternVLForConditionalGeneration = adapted.merge_and_unload(safe_merge=True)
    return merged


def _is_linear(model: torch.nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), torch.nn.Linear)
    except AttributeError:
        return False


def _factors(directory: Path, native_name: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """LoRA tensors as ``module.lora_A.weight``, under the names of the model in memory."""
    from safetensors.torch import load_file

    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        if (directory / "adapter_model.bin").exists():
            raise ModelError(
                f"{directory / 'adapter_model.bin'} is a pickle, which can run code when opened; "
                "save the adapter as safetensors"
            )
        raise ModelError(f"no {ADAPTER_WEIGHTS} in {directory}")
    try:
        stored = load_file(path)
    except Exception as error:  # safetensors raises its own type, and OSError
        raise ModelError(f"cannot read {path}: {one_line(error)}") from error
    factors = {}
    for name, tensor in stored.items():
        found = _LORA.match(name)
        if found is None:
            raise ModelError(
                f"{path} holds {name}, which is no LoRA factor; tensors trained in full belong "
                "into another .safetensors file beside it"
            )
        module = found["module"].replace("base_model.model.", "")
        if module.startswith("model.layers."):  # written around the language model alone
            module = "language_model." + module
        # The renames look for names of parameters: give them one.
        module = native_name(f"{module}.weight").removesuffix(".weight")
        factors[f"{module}.{found['factor']}.weight"] = tensor
    return factors


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {one_line(error)}") from error
    return config
