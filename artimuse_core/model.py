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

from .decoder import (
    DecoderShape,
    KeyValue,
    Rope,
    causal_mask,
    join,
    merge_heads,
    run_blocks,
    split_heads,
)
from .errors import ModelError


class ScoringGraph(nn.Module):
    """Scores batches of images with one fixed prompt.

    Args:
        model: ``transformers``' ``InternVLForConditionalGeneration``, LoRA merged.
        before_ids: token ids of the prompt up to and including ``<img>``.
        after_ids: token ids from ``</img>`` to where the answer begins.
        answers: token ids of the K possible answers, by ascending score; one id each for score
            tokens. Answers of several tokens (App. C.1, a number spelled out) are weighed whole.
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
        answers: Sequence[Sequence[int]],
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
        self.shape = DecoderShape.of(config.text_config)
        self.input_size: int = _side(config.vision_config.image_size)
        patches = self.input_size // _side(config.vision_config.patch_size)
        self.image_tokens = (patches // 2) ** 2

        self._constant("before_ids", torch.tensor(list(before_ids)))
        self._constant("after_ids", torch.tensor(list(after_ids)))
        self._constant("score_ids", torch.tensor([ids[0] for ids in answers]))
        self.answers = None if all(len(ids) == 1 for ids in answers) else [*map(list, answers)]
        """Where they are longer than a token; else None."""
        longest = max(len(ids) for ids in answers) - 1
        total = len(before_ids) + self.image_tokens + len(after_ids) + longest
        cos, sin = self.shape.rope(torch.arange(total))
        self._constant("rope_cos", cos)  # (tokens, head_dim) fp32
        self._constant("rope_sin", sin)
        self._frozen = False

    @torch.no_grad()
    def freeze(self, *, keep_text: bool = True) -> ScoringGraph:
        """Precompute what does not depend on the image; for inference and export. Returns self.

        Without ``keep_text``, the embedding table and the full head are let go: scores need
        neither, and at 8B they are 2.2 of 15.9 GB.
        """
        self.eval().requires_grad_(False)
        for layer, (keys, values) in enumerate(self.prefix()):
            self._constant(f"prefix_keys_{layer}", keys)
            self._constant(f"prefix_values_{layer}", values)
        self._constant("after_embeddings", self._after_embeddings())
        self._constant("score_head", self._score_head())
        self._frozen = True
        if not keep_text and self.answers is None:
            self.decoder.embed_tokens = self.lm_head = None
        return self

    def _constant(self, name: str, value: Tensor) -> None:
        """A buffer that moves with the module and is no part of the checkpoint."""
        self.register_buffer(name, value, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels → (B, K) fp32 logits of the score tokens."""
        if self.answers is not None:
            return self.score_from(self.prefill(pixel_values))
        return self.read(self.image_embeddings(pixel_values))

    def score_and_embed(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Score logits (B, K), and (B, vision width) fp32 unit vectors of what the tower saw.

        The vectors are the mean over the patches: pictures that look alike lie close together.
        """
        features = self.image_features(pixel_values)
        embedding = F.normalize(features.float().mean(dim=1), dim=1)
        if self.answers is not None:
            return self(pixel_values), embedding
        return self.read(self._project(features)), embedding

    def read(self, image: Tensor) -> Tensor:
        """Image tokens (B, tokens, LLM width) → (B, K) score logits."""
        return self.tell(self.final_states(image))

    def final_states(self, image: Tensor) -> Tensor:
        """Image tokens (B, tokens, LLM width) → normed states (B, TAIL, LLM width) at the end."""
        after = self._after_embeddings().expand(image.shape[0], -1, -1)
        hidden = torch.cat([image, after], dim=1)
        return self.decoder.norm(self._decode(hidden, self.prefix(), last_only=True))

    def tell(self, states: Tensor) -> Tensor:
        """:meth:`final_states` (B, TAIL, LLM width) → (B, K) fp32 score logits of the last."""
        return F.linear(states, self._score_head())[:, -1].float()

    # --- vision ---------------------------------------------------------------------------------

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, patches, vision width): last layer, no final norm, no class token."""
        embeddings = self.vision.embeddings
        x = embeddings.patch_embeddings.projection(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.encode(x + embeddings.position_embeddings)

    def encode(self, x: Tensor) -> Tensor:
        """Embedded class token and P patches (B, 1 + P, vision width) → the patches, encoded."""
        for layer in self.vision.encoder.layer:
            x = self._vision_block(layer, x)
        return x[:, 1:]

    def _vision_block(self, layer: Any, x: Tensor) -> Tensor:
        x = x + layer.lambda_1 * self._vision_attention(layer, layer.layernorm_before(x))
        return x + layer.lambda_2 * layer.mlp(layer.layernorm_after(x))

    def _vision_attention(self, layer: Any, x: Tensor) -> Tensor:
        attention = layer.attention
        q, k, v = (
            split_heads(projection(x), self.vision_heads)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return attention.projection_layer(merge_heads(F.scaled_dot_product_attention(q, k, v)))

    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, image tokens, LLM width): pixel unshuffle ("v2"), then the MLP."""
        return self._project(self.image_features(pixel_values))

    def _project(self, x: Tensor) -> Tensor:
        return self.projector(self.unshuffle(x))

    def unshuffle(self, x: Tensor) -> Tensor:
        """(B, patches, vision width) → (B, image tokens, 4 · vision width): 2×2 patches joined."""
        side, width = self.input_size // _side(self.vision.config.patch_size), x.shape[-1]
        x = x.reshape(-1, side // 2, 2, side // 2, 2, width)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.image_tokens, 4 * width)

    # --- language model -------------------------------------------------------------------------

    def prefix(self) -> list[KeyValue]:
        """Keys and values of the text before the image, one pair a layer, batch 1."""
        layers = range(len(self.decoder.layers))
        if self._frozen:
            return [
                (getattr(self, f"prefix_keys_{i}"), getattr(self, f"prefix_values_{i}"))
                for i in layers
            ]
        collected: list[KeyValue] = []
        empty = self.lm_head.weight.new_zeros(1, self.shape.kv_heads, 0, self.shape.head_dim)
        hidden = self.decoder.embed_tokens(self.before_ids)[None]
        self._decode(hidden, [(empty, empty) for _ in layers], collect=collected)
        return collected

    def prefill(self, pixel_values: Tensor) -> list[KeyValue]:
        """Keys and values of the text before the image and of the image, (B, …, tokens, …).

        What every question about the same image shares: score and critiques branch from here.
        """
        return self.prefill_tokens(self.image_embeddings(pixel_values))

    def prefill_tokens(self, image: Tensor) -> list[KeyValue]:
        """:meth:`prefill` of image tokens (B, tokens, LLM width)."""
        prefix = self.prefix()
        collected: list[KeyValue] = []
        self._decode(image, prefix, last_only=True, collect=collected)
        return [join(past, new) for past, new in zip(prefix, collected, strict=True)]

    def score_from(self, prefilled: Sequence[KeyValue]) -> Tensor:
        """(B, K) fp32 logits of the score tokens, from :meth:`prefill`'s cache."""
        hidden = self._after_embeddings().expand(prefilled[0][0].shape[0], -1, -1)
        if self.answers is not None:
            return self._weigh(hidden, prefilled, self.answers)
        return self.tell(self.decoder.norm(self._decode(hidden, prefilled, last_only=True)))

    def _weigh(
        self, after: Tensor, prefilled: Sequence[KeyValue], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """(B, K) fp32 log-likelihoods of whole answers behind the question (B, T, width)."""
        collected: list[KeyValue] = []
        hidden = self._decode(after, prefilled, collect=collected)
        first = self._log_probs(hidden[:, -1:])  # (B, 1, V)
        cache = [join(past, new) for past, new in zip(prefilled, collected, strict=True)]
        length = max(map(len, answers))
        padded = [[*ids, *[-1] * (length - len(ids))] for ids in answers]
        ids = torch.tensor(padded, device=after.device)  # (K, L)
        written = self.decoder.embed_tokens(ids[:, :-1].clamp_min(0))
        rows = []
        for image in range(len(first)):  # the answers to one image are a batch of their own
            past = [(keys[image : image + 1], values[image : image + 1]) for keys, values in cache]
            later = self._log_probs(self._decode(written, past))  # (K, L - 1, V)
            log_probs = torch.cat([first[image].expand(len(ids), 1, -1), later], dim=1)
            chosen = log_probs.gather(2, ids.clamp_min(0)[:, :, None])[:, :, 0]
            rows.append(chosen.masked_fill(ids < 0, 0).sum(dim=1))
        return torch.stack(rows)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """(…, width) → (…, V) fp32."""
        return self.lm_head(self.decoder.norm(hidden)).float().log_softmax(dim=-1)

    def _after_embeddings(self) -> Tensor:
        """(1, tokens after the image, width)."""
        if self._frozen:
            return self.after_embeddings
        return self.decoder.embed_tokens(self.after_ids)[None]

    def _score_head(self) -> Tensor:
        """(K, width)."""
        if self._frozen:
            return self.score_head
        return self.lm_head.weight[self.score_ids]

    def _decode(
        self,
        hidden: Tensor,
        past: Sequence[KeyValue],
        *,
        last_only: bool = False,
        collect: list[KeyValue] | None = None,
    ) -> Tensor:
        """:func:`run_blocks` for tokens that follow ``past`` without a gap."""
        start, length = past[0][0].shape[2], hidden.shape[1]
        rope = self.rope_cos[start : start + length], self.rope_sin[start : start + length]
        mask = causal_mask(start, length, hidden.device)
        return self._run_blocks(hidden, past, rope, mask, last_only=last_only, collect=collect)

    def _run_blocks(
        self,
        hidden: Tensor,
        past: Sequence[KeyValue],
        rope: Rope,
        mask: Tensor,
        *,
        last_only: bool,
        collect: list[KeyValue] | None,
    ) -> Tensor:
        return run_blocks(
            self.decoder.layers,
            self.shape,
            hidden,
            past,
            rope,
            mask,
            last_only=last_only,
            collect=collect,
        )


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


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
