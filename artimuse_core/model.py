"""The scoring graph: ``pixel_values → score_logits``, written out over native InternVL weights.

The prompt is fixed, so a score is a function of the pixels alone. The graph therefore holds the
prompt's embeddings as constants, computes the keys and values of everything before the image once,
carries only the last position through the last block's MLP and final norm, and multiplies with the
rows of ``lm_head`` that belong to score tokens. Full-vocabulary logits are never built.

The weights stay in the ``transformers`` model the graph is made from, so training through the graph
trains that model; ``freeze`` turns the constants into buffers for inference and export.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ModelError

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B or 1, kv_heads, tokens, head_dim)."""


class ScoringGraph(nn.Module):
    """Scores batches of images with one fixed prompt.

    Args:
        model: ``transformers``' ``InternVLForConditionalGeneration``, LoRA merged.
        before_ids: token ids of the prompt up to and including ``<img>``.
        after_ids: token ids from ``</img>`` to where the answer begins.
        score_token_ids: ids of the K score tokens, by ascending score.
    """

    vision: Any
    projector: Any
    decoder: Any
    lm_head: Any
    before_ids: Tensor
    after_ids: Tensor
    score_ids: Tensor
    rope_cos: Tensor
    rope_sin: Tensor
    after_embeddings: Tensor
    score_head: Tensor

    def __init__(
        self,
        model: nn.Module,
        before_ids: Sequence[int],
        after_ids: Sequence[int],
        score_token_ids: Sequence[int],
    ) -> None:
        super().__init__()
        config: Any = model.config
        _refuse_unsupported(config)
        core: Any = model.model
        self.vision = core.vision_tower
        self.projector = core.multi_modal_projector
        self.decoder = core.language_model
        self.lm_head = model.lm_head
        self.vision_heads: int = config.vision_config.num_attention_heads
        text = config.text_config
        self.heads: int = text.num_attention_heads
        self.kv_heads: int = text.num_key_value_heads
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // self.heads
        self.input_size: int = _side(config.vision_config.image_size)
        patches = self.input_size // _side(config.vision_config.patch_size)
        self.image_tokens = (patches // 2) ** 2

        self._constant("before_ids", torch.tensor(list(before_ids)))
        self._constant("after_ids", torch.tensor(list(after_ids)))
        self._constant("score_ids", torch.tensor(list(score_token_ids)))
        total = len(before_ids) + self.image_tokens + len(after_ids)
        cos, sin = _rope_table(total, self.head_dim, _rope_theta(text))
        self._constant("rope_cos", cos)  # (tokens, head_dim) fp32
        self._constant("rope_sin", sin)
        self._frozen = False

    @torch.no_grad()
    def freeze(self) -> ScoringGraph:
        """Precompute what does not depend on the image; for inference and export. Returns self."""
        self.eval().requires_grad_(False)
        for layer, (keys, values) in enumerate(self._prefix()):
            self._constant(f"prefix_keys_{layer}", keys)
            self._constant(f"prefix_values_{layer}", values)
        self._constant("after_embeddings", self._after_embeddings())
        self._constant("score_head", self._score_head())
        self._frozen = True
        return self

    def _constant(self, name: str, value: Tensor) -> None:
        """A buffer that moves with the module and is no part of the checkpoint."""
        self.register_buffer(name, value, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, K) fp32 logits of the score tokens."""
        image = self.image_embeddings(pixel_values)
        if self._frozen:
            layers = range(len(self.decoder.layers))
            prefix = [self._frozen_prefix(layer) for layer in layers]
            after, head = self.after_embeddings, self.score_head
        else:
            prefix, after, head = self._prefix(), self._after_embeddings(), self._score_head()
        hidden = torch.cat([image, after.expand(image.shape[0], -1, -1)], dim=1)
        hidden = self._decode(hidden, prefix, last_only=True)
        hidden = self.decoder.norm(hidden)[:, 0]  # (B, width)
        return F.linear(hidden, head).float()

    def _frozen_prefix(self, layer: int) -> KeyValue:
        return getattr(self, f"prefix_keys_{layer}"), getattr(self, f"prefix_values_{layer}")

    # --- vision ---------------------------------------------------------------------------------

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, patches, vision width): last layer, no final norm, no class token."""
        embeddings = self.vision.embeddings
        x = embeddings.patch_embeddings.projection(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + embeddings.position_embeddings
        for layer in self.vision.encoder.layer:
            x = x + layer.lambda_1 * self._vision_attention(layer, layer.layernorm_before(x))
            x = x + layer.lambda_2 * layer.mlp(layer.layernorm_after(x))
        return x[:, 1:]

    def _vision_attention(self, layer: Any, x: Tensor) -> Tensor:
        attention = layer.attention
        q, k, v = (
            _split_heads(projection(x), self.vision_heads)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return attention.projection_layer(_merge_heads(F.scaled_dot_product_attention(q, k, v)))

    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, image tokens, LLM width): pixel unshuffle ("v2"), then the MLP."""
        x = self.image_features(pixel_values)
        side, width = self.input_size // _side(self.vision.config.patch_size), x.shape[-1]
        x = x.reshape(-1, side // 2, 2, side // 2, 2, width)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.image_tokens, 4 * width)
        return self.projector(x)

    # --- language model -------------------------------------------------------------------------

    def _prefix(self) -> list[KeyValue]:
        """Keys and values of the text before the image, one pair a layer, batch 1."""
        collected: list[KeyValue] = []
        empty = self.lm_head.weight.new_zeros(1, self.kv_heads, 0, self.head_dim)
        nothing = [(empty, empty)] * len(self.decoder.layers)
        hidden = self.decoder.embed_tokens(self.before_ids)[None]
        self._decode(hidden, nothing, collect=collected)
        return collected

    def _after_embeddings(self) -> Tensor:
        return self.decoder.embed_tokens(self.after_ids)[None]

    def _score_head(self) -> Tensor:
        return self.lm_head.weight[self.score_ids]  # (K, width)

    def _decode(
        self,
        hidden: Tensor,
        past: Sequence[KeyValue],
        *,
        last_only: bool = False,
        collect: list[KeyValue] | None = None,
    ) -> Tensor:
        """Run (B, T, width) through the decoder behind ``past``; positions follow it.

        With ``last_only`` the last block computes its queries and MLP for the final position alone,
        and the answer is (B, 1, width).
        """
        past_length, length = past[0][0].shape[2], hidden.shape[1]
        stop = past_length + length
        cos, sin = self.rope_cos[past_length:stop], self.rope_sin[past_length:stop]
        # Explicit, because `is_causal` aligns upper-left and is wrong for fewer queries than keys.
        positions = torch.arange(stop, device=hidden.device)
        mask = positions[None, :] <= positions[past_length:, None]  # (T, past + T)
        last = len(self.decoder.layers) - 1
        for index, (layer, (past_keys, past_values)) in enumerate(
            zip(self.decoder.layers, past, strict=True)
        ):
            normed = layer.input_layernorm(hidden)
            attention = layer.self_attn
            k = _rotate(_split_heads(attention.k_proj(normed), self.kv_heads), cos, sin)
            v = _split_heads(attention.v_proj(normed), self.kv_heads)
            if collect is not None:
                collect.append((k, v))
            if last_only and index == last:
                hidden, normed = hidden[:, -1:], normed[:, -1:]
                cos, sin, mask = cos[-1:], sin[-1:], mask[-1:]
            q = _rotate(_split_heads(attention.q_proj(normed), self.heads), cos, sin)
            k = self._all_heads(torch.cat([past_keys.expand(k.shape[0], -1, -1, -1), k], dim=2))
            v = self._all_heads(torch.cat([past_values.expand(v.shape[0], -1, -1, -1), v], dim=2))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            hidden = hidden + attention.o_proj(_merge_heads(mixed))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden

    def _all_heads(self, x: Tensor) -> Tensor:
        """Repeat grouped key/value heads so that each query head has its own."""
        return x.repeat_interleave(self.heads // self.kv_heads, dim=1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, T, head_dim)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, T, width)


def _rope_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)  # (length, head_dim)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, half-split layout."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _rope_theta(text_config: Any) -> float:
    """Where the base frequency lives depends on the transformers version (5.x moved it)."""
    parameters = getattr(text_config, "rope_parameters", None)
    return float(parameters["rope_theta"] if parameters else text_config.rope_theta)


def _refuse_unsupported(config: Any) -> None:
    """The written-out forward covers InternVL3; say so rather than score wrongly."""
    vision, text = config.vision_config, config.text_config
    checks = {
        "vision_config.use_qk_norm": not vision.use_qk_norm,
        "vision_config.norm_type": vision.norm_type == "layer_norm",
        "vision_config.use_mean_pooling": vision.use_mean_pooling,
        "text_config.use_sliding_window": not getattr(text, "use_sliding_window", False),
        "downsample_ratio": config.downsample_ratio == 0.5,
        "tie_word_embeddings": not config.tie_word_embeddings,
    }
    wrong = [name for name, fine in checks.items() if not fine]
    if wrong:
        raise ModelError(f"the scoring graph does not support this value of {', '.join(wrong)}")
