"""Checkpoints read into transformers' own InternVL classes, and written in the official format.

A checkpoint directory holds ``config.json``, ``*.safetensors`` and the tokenizer's files, in one of
two layouts told apart by their configuration: the authors' (InternVLChat: fused qkv, ``mlp1``) or
transformers' native one. A PEFT adapter over either is a directory with ``adapter_config.json``
(see :mod:`.adapter`). Nothing in a directory is ever executed; pickled weights are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from . import adapter, weights
from .errors import ModelError
from .images import one_line
from .outputs import new_directory
from .prompts import IMG_CONTEXT, SCORE_QUESTION, Prompt, chat_prompt, system_message
from .score_tokens import ORDERED_100, ScoreTokens, strategy

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
# What `save_pretrained` writes for the native model, by the beginning of the name → in memory.
_NATIVE_PREFIXES = {
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"
_QKV = re.compile(r"(.*\.attention\.)qkv\.(weight|bias)$")
_SPLIT = re.compile(r"(.*vision_tower.*\.attention\.)([qkv])_proj\.(weight|bias)$")


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` as it stands; an adapter's is its base model's."""
    path = adapter.home(directory) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(config, dict) or not (is_official(config) or is_native(config)):
        raise ModelError(
            f"{path} is no InternVL configuration: expected llm_config (the official InternVLChat "
            "format) or model_type internvl with text_config (transformers' native format)"
        )
    return config


def is_official(config: Mapping[str, Any]) -> bool:
    return "llm_config" in config and "vision_config" in config


def is_native(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "internvl" and "text_config" in config


def native_config(config: dict[str, Any], image_token_id: int) -> InternVLConfig:
    """Translate a ``config.json`` of either layout into transformers' own configuration."""
    if is_native(config):
        native = InternVLConfig.from_dict(dict(config))
        native.tie_word_embeddings = False  # a tied head is loaded as a copy
        return native
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


def native_name(name: str) -> str:
    """A stored name of either layout as the model in memory has it; fused qkv stays fused."""
    for stored, inside in _NATIVE_PREFIXES.items():
        if name.startswith(stored):
            return inside + name.removeprefix(stored)
    if name.startswith(("model.", "lm_head.")):
        return name
    for old, new in _RENAMES:
        name = name.replace(old, new)
    return name


def to_native(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of a checkpoint, splitting the official vision tower's fused qkv."""
    native: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        name = native_name(name)
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


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, without its remote code."""
    directory = adapter.home(directory)
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
    directory: Path,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> InternVLForConditionalGeneration:
    """Read a checkpoint of any layout, or an adapter merged into its base, in eval mode.

    Shard by shard straight to ``device`` and ``dtype`` (None: as stored). Names and shapes are
    checked against the configuration before any weight is read. Raises ModelError with what is
    missing, unexpected or of another shape.
    """
    home = adapter.home(directory)
    base = adapter.base(directory)
    config = read_config(directory)
    image_token_id = load_tokenizer(home).convert_tokens_to_ids(IMG_CONTEXT)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(native_config(config, image_token_id))
    stored = weights.listing(base)
    tied = _is_tied(config, stored)
    beside = weights.listing(directory) if directory != base else {}
    stored = _without(stored, beside)
    given = [*([_HEAD] if tied else []), *_native_shapes(beside)]
    _require_fit(model, stored, base, given=given)
    _fill(model, stored, dtype, device)
    if tied and _HEAD not in _native_shapes(beside):
        embeddings = model.model.language_model.embed_tokens.weight
        model.load_state_dict({_HEAD: embeddings.detach().clone()}, strict=False, assign=True)
    if adapter.is_adapter(directory):
        _require_fit(model, beside, directory, given=model.state_dict())
        _fill(model, beside, dtype, device)
        model = adapter.merge(model, directory, native_name)
    # The decoder's rotary table is a buffer outside the state dict; on `meta` it was never filled.
    rotary = model.model.language_model.rotary_emb
    rotary = type(rotary)(config=model.config.text_config)
    model.model.language_model.rotary_emb = rotary.to(device)
    return model.eval()


def _without(
    stored: Mapping[str, weights.Stored], replaced: Mapping[str, weights.Stored]
) -> dict[str, weights.Stored]:
    """What of a base is still needed beside an adapter's own tensors, which may be of another
    shape: an expanded vocabulary's."""
    new = _native_shapes(replaced)
    return {
        name: item
        for name, item in stored.items()
        if not _native_shapes({name: item}).keys() <= new.keys()
    }


def _native_shapes(stored: Mapping[str, weights.Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of the model in memory."""
    # On `meta`, tensors are shapes without memory.
    shapes = {name: torch.empty(item.shape, device="meta") for name, item in stored.items()}
    return {name: tuple(tensor.shape) for name, tensor in to_native(shapes).items()}


def _fill(
    model: InternVLForConditionalGeneration,
    stored: Mapping[str, weights.Stored],
    dtype: torch.dtype | None,
    device: str | torch.device,
) -> None:
    for shard in weights.read(stored, device):
        state = to_native(shard)
        if dtype is not None:
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        model.load_state_dict(state, strict=False, assign=True)


def _is_tied(config: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding table: it is not stored, and the configuration agrees."""
    if any(native_name(name) == _HEAD for name in stored):
        return False
    where = config["llm_config"] if is_official(config) else config
    # transformers leaves out what equals its default, and its InternVL ties by default.
    return bool(where.get("tie_word_embeddings", is_native(config)))


def _require_fit(
    model: InternVLForConditionalGeneration,
    stored: Mapping[str, weights.Stored],
    directory: Path,
    given: Any = (),
) -> None:
    """Raise ModelError unless ``stored`` and ``given`` names together are the model's tensors."""
    here = _native_shapes(stored)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(wanted.keys() - here.keys() - set(given))
    unexpected = sorted(here.keys() - wanted.keys())
    if missing or unexpected:
        raise ModelError(
            f"{directory} does not hold this model: {_summary(missing, 'missing')}, "
            f"{_summary(unexpected, 'unexpected')}"
        )
    other = sorted(name for name in here if here[name] != wanted[name])
    if other:
        raise ModelError(
            f"{directory} does not fit its config.json: {len(other)} tensors of another shape, "
            f"first {other[0]} {here[other[0]]}, expected {wanted[other[0]]}"
        )


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
    file = directory / "model.safetensors"
    partial = file.with_suffix(".partial")  # the old file may be what the tensors are mapped to
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner alone
    partial.replace(file)
    write_config(directory, config)


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """``config.json``, of either layout."""
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def score_prompt(config: Mapping[str, Any]) -> Prompt:
    """The score prompt a checkpoint was tuned with."""
    return chat_prompt(score_question(config), system_message(config))


def score_question(config: Mapping[str, Any]) -> str:
    """``score_question`` in ``config.json`` is ours (nano asks a short one); the authors'
    checkpoints have no such key and take the contract's question."""
    question: str = config.get("score_question", SCORE_QUESTION)
    return question


def score_tokens(config: Mapping[str, Any]) -> ScoreTokens:
    """The strategy (App. C) a checkpoint answers with: ``score_tokens`` in ``config.json``, which
    training writes; the authors' checkpoints have no such key and are ``ordered-100``."""
    return strategy(config.get("score_tokens", ORDERED_100.name))


def writes(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was trained to write critiques; the authors' were, and do not say so."""
    return bool(config.get("critiques", True))


_OURS = ("system_message", "score_question", "critiques", "draft", "score_tokens", "max_tiles")
"""Keys of ``config.json`` that transformers does not know and a converted checkpoint keeps."""


def convert(source: Path, output: Path) -> Path:
    """Write any checkpoint, an adapter merged into its base, in transformers' native format.

    ``InternVLForConditionalGeneration.from_pretrained(output)`` reads it, and so do we; tensors
    keep the dtype they are stored in. Raises UsageError if ``output`` exists.
    """
    with new_directory(output) as work:
        save_native(work, load_model(source, dtype=None), read_config(source))
        load_tokenizer(source).save_pretrained(work)
        for file in work.iterdir():
            file.chmod(0o644)
    return output


def save_native(
    directory: Path, model: InternVLForConditionalGeneration, config: Mapping[str, Any]
) -> None:
    """Write transformers' native format with what ``config`` (of either layout) holds of ours."""
    model.save_pretrained(directory, max_shard_size="5GB")
    path = directory / "config.json"
    written = json.loads(path.read_text("utf-8"))
    # Said aloud, because transformers' default is True.
    written["tie_word_embeddings"] = written["text_config"]["tie_word_embeddings"] = False
    written |= {key: config[key] for key in _OURS if key in config}
    write_config(directory, written)
