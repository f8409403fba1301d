"""Checkpoints in the official InternVLChat format, read into and written from native models.

A checkpoint directory holds ``config.json``, ``*.safetensors`` (with
``model.safetensors.index.json`` where it is sharded) and the tokenizer's files. Nothing in it is
ever executed; pickled weights are refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from .errors import ModelError
from .prompts import IMG_CONTEXT, SCORE_QUESTION, Prompt, chat_prompt, system_message

# Official name → native name; `(\d+)` is the layer. Order matters: the first match wins.
_RENAMES: tuple[tuple[str, str], ...] = (
    ("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
    (
        "vision_model.embeddings.position_embedding",
        "model.vision_tower.embeddings.position_embeddings",
    ),
    (
        "vision_model.embeddings.patch_embedding.",
        "model.vision_tower.embeddings.patch_embeddings.projection.",
    ),
    ("vision_model.encoder.layers.", "model.vision_tower.encoder.layer."),
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.qkv.", ".attention.qkv."),  # split in three afterwards
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
    ("mlp1.0.", "model.multi_modal_projector.layer_norm."),
    ("mlp1.1.", "model.multi_modal_projector.linear_1."),
    ("mlp1.3.", "model.multi_modal_projector.linear_2."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
)
_QKV = re.compile(r"(.*\.attention\.)qkv\.(weight|bias)$")
_SPLIT = re.compile(r"(.*vision_tower.*\.attention\.)([qkv])_proj\.(weight|bias)$")


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` as it stands."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict) or "llm_config" not in config:
        raise ModelError(
            f"{path} is not an InternVLChat configuration (no llm_config); "
            "expected a checkpoint in the official format"
        )
    return config


def native_config(config: dict[str, Any], image_token_id: int) -> InternVLConfig:
    """Translate an official ``config.json`` into transformers' own configuration."""
    vision, llm = config["vision_config"], config["llm_config"]
    if config.get("ps_version", "v2") != "v2" or config.get("select_layer", -1) != -1:
        raise ModelError("only ps_version v2 and select_layer -1 are supported")
    image_size = config.get("force_image_size") or vision["image_size"]
    patches = image_size // vision["patch_size"]
    native = InternVLConfig(
        vision_config=InternVLVisionConfig(
            **{
                key: vision[key]
                for key in (
                    "hidden_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "intermediate_size",
                    "hidden_act",
                    "norm_type",
                    "layer_norm_eps",
                    "patch_size",
                )
            },
            image_size=image_size,
            attention_bias=vision["qkv_bias"],
            use_qk_norm=vision["qk_normalization"],
            use_mean_pooling=True,  # keeps the final norm away: the features are the raw last layer
        ).to_dict(),
        text_config=Qwen2Config(
            **{
                key: llm[key]
                for key in (
                    "vocab_size",
                    "hidden_size",
                    "intermediate_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "hidden_act",
                    "max_position_embeddings",
                    "rms_norm_eps",
                )
            },
            # `rope_scaling: dynamic` has no effect below 32,768 tokens and breaks export.
            **_rope(llm["rope_theta"]),
            tie_word_embeddings=False,
        ).to_dict(),
        image_token_id=image_token_id,
        image_seq_length=(patches // 2) ** 2,
        downsample_ratio=config["downsample_ratio"],
        tie_word_embeddings=False,  # the default is True, and silently wrong logits
    )
    return native


def _rope(theta: float) -> dict[str, Any]:
    """transformers 4.57 takes ``rope_theta``, 5.x ``rope_parameters``; neither minds the other."""
    if "rope_parameters" in getattr(Qwen2Config, "__annotations__", {}):
        return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    return {"rope_theta": theta}


def to_native(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of an official checkpoint, splitting the vision tower's fused qkv."""
    native: dict[str, torch.Tensor] = {}
    for name, tensor in official.items():
        for old, new in _RENAMES:
            name = name.replace(old, new)
        fused = _QKV.match(name)
        if fused:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                native[f"{fused[1]}{letter}_proj.{fused[2]}"] = part
        else:
            native[name] = tensor
    return native


def to_official(native: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`to_native`."""
    official: dict[str, torch.Tensor] = {}
    for name, tensor in native.items():
        split = _SPLIT.match(name)
        if split:
            if split[2] != "q":
                continue
            parts = [native[f"{split[1]}{letter}_proj.{split[3]}"] for letter in "qkv"]
            name, tensor = f"{split[1]}qkv.{split[3]}", torch.cat(parts)
        vision = name.startswith("model.vision_tower.")
        for old, new in _RENAMES:
            if vision or not old.startswith("."):
                name = name.replace(new, old)
        official[name] = tensor.contiguous()
    return official


def load_state(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint under their official names, on the CPU."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        pickled = [*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]
        reason = (
            f"{pickled[0].name} is a pickle, which can run code when opened; convert it first"
            if pickled
            else "expected *.safetensors"
        )
        raise ModelError(f"no usable weights in {directory}: {reason}")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state.update(load_file(file))
        except Exception as error:  # safetensors raises its own type, and OSError
            raise ModelError(f"cannot read {file}: {error}") from error
    return state


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, without its remote code."""
    if (directory / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(directory)
    if not (directory / "vocab.json").exists():
        raise ModelError(f"no tokenizer in {directory}: expected tokenizer.json or vocab.json")
    import transformers

    # 4.57 calls the fast one Qwen2TokenizerFast; in 5.x the plain name is the fast one.
    name = "Qwen2TokenizerFast" if hasattr(transformers, "Qwen2TokenizerFast") else "Qwen2Tokenizer"
    tokenizer: PreTrainedTokenizerFast = getattr(transformers, name).from_pretrained(directory)
    return tokenizer


def build_model(
    config: dict[str, Any], image_token_id: int, dtype: torch.dtype = torch.float32
) -> InternVLForConditionalGeneration:
    """A randomly initialised model of the given official configuration, in eval mode."""
    native = native_config(config, image_token_id)
    return InternVLForConditionalGeneration(native).to(dtype).eval()


def load_model(
    directory: Path, dtype: torch.dtype = torch.float32
) -> InternVLForConditionalGeneration:
    """Read an official-format checkpoint into transformers' own classes.

    Raises ModelError with the missing and unexpected keys when the weights do not fit.
    """
    config = read_config(directory)
    image_token_id = load_tokenizer(directory).convert_tokens_to_ids(IMG_CONTEXT)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(native_config(config, image_token_id))
    state = {name: tensor.to(dtype) for name, tensor in to_native(load_state(directory)).items()}
    wanted = set(model.state_dict())
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unexpected:
        raise ModelError(
            f"{directory} does not hold this model: {_summary(missing, 'missing')}, "
            f"{_summary(unexpected, 'unexpected')}"
        )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{directory} does not fit its config.json: {detail}") from error
    # The decoder's rotary table is a buffer outside the state dict; on `meta` it was never filled.
    rotary = model.model.language_model.rotary_emb
    model.model.language_model.rotary_emb = type(rotary)(config=model.config.text_config)
    return model.eval()


def _summary(keys: list[str], what: str) -> str:
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"{len(keys)} {what}" + (f" ({shown})" if keys else "")


def save_model(
    directory: Path,
    model: InternVLForConditionalGeneration,
    config: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write the official format: ``config.json`` and ``model.safetensors``."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(dtype) for name, tensor in to_official(model.state_dict()).items()}
    weights = directory / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes it readable for its owner alone
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def score_prompt(config: dict[str, Any]) -> Prompt:
    """The score prompt a checkpoint was tuned with.

    ``score_question`` in ``config.json`` is ours (nano asks a short one); the authors' checkpoints
    have no such key and take the contract's question.
    """
    question = config.get("score_question", SCORE_QUESTION)
    return chat_prompt(question, system_message(config))
