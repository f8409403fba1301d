"""The critique as two more graphs of a bundle: prefill, and decode over a cache.

Each graph holds the weights it needs, so that either runs alone. The words are compared with
torch's greedy ones before the bundle gets its name.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..artimuse_core import bundle, checkpoint, critic_onnx
from ..artimuse_core.attributes import ATTRIBUTES
from ..artimuse_core.critic import Critic
from ..artimuse_core.critic_torch import TorchWriter, TransformersTokenizer
from ..artimuse_core.decoder import join, run_blocks
from ..artimuse_core.errors import ModelError, UsageError
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.pictures import render_pictures
from ..artimuse_core.prompts import system_message
from .store import store, store_as_fp16
from .trace import trace
from .whole_pixels import embed_whole_pixels

PREFILL, DECODE, TOKENIZER = "prefill.onnx", "decode.onnx", "tokenizer.json"
PICTURES, NEW_TOKENS = 4, 24
"""What the words are compared on: rendered pictures, and tokens of each of eight attributes."""


class _Prefill(nn.Module):
    def __init__(self, graph: ScoringGraph) -> None:
        super().__init__()
        self.scoring = graph

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        cache = self.scoring.prefill(pixel_values)
        return self.scoring.score_from(cache), torch.stack([torch.stack(pair) for pair in cache])


class _Decode(nn.Module):
    def __init__(self, graph: ScoringGraph) -> None:
        super().__init__()
        self.decoder, self.lm_head, self.shape = graph.decoder, graph.lm_head, graph.shape

    def forward(
        self, ids: Tensor, positions: Tensor, seen: Tensor, past: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            ids, positions: (R, T), the new tokens.
            seen: bool (R, P), what of the cache a row attends to.
            past: (layers, 2, R, heads, P, head width).
            last: (R,), which of the T a row's answer is wanted after.
        """
        rows, length = ids.shape
        slots = torch.arange(length, device=ids.device)
        causal = (slots[None, :] <= slots[:, None])[None, None].expand(rows, -1, -1, -1)
        mask = torch.cat([seen[:, None, None].expand(-1, -1, length, -1), causal], dim=-1)
        cache = [(layer[0], layer[1]) for layer in past]
        new: list[tuple[Tensor, Tensor]] = []
        hidden = run_blocks(
            self.decoder.layers, self.shape, self.decoder.embed_tokens(ids), cache,
            self.shape.rope(positions), mask, collect=new,
        )  # fmt: skip
        wanted = last[:, None, None].expand(-1, 1, hidden.shape[-1])
        logits = self.lm_head(self.decoder.norm(hidden.gather(1, wanted)))[:, 0]
        joined = [join(old, pair) for old, pair in zip(cache, new, strict=True)]
        return logits, torch.stack([torch.stack(pair) for pair in joined])


def require_writes(checkpoint_dir: Path, precision: str) -> None:
    """Raises UsageError where there are no critiques to export."""
    if not checkpoint.writes(checkpoint.read_config(checkpoint_dir)):
        raise UsageError(f"{checkpoint_dir.name} was trained to score only: leave out --critique")
    if precision != "fp32":
        raise UsageError(
            f"--critique with --precision {precision}: fewer bits choose other words, and there is "
            "no bound to verify those by; export critiques in fp32"
        )


def write_critique(
    graph: ScoringGraph,
    checkpoint_dir: Path,
    work: Path,
    manifest: bundle.Manifest,
    *,
    whole_pixels: bool = False,
    inline_bytes: int,
    shard_bytes: int,
) -> bundle.Manifest:
    """Add both graphs and the tokenizer to the bundle in ``work``; the manifest that names them.

    ``graph`` is frozen, in fp32, with its text weights kept; both sizes are :func:`.store`'s.
    Raises ModelError if the words are not torch's.
    """
    config = checkpoint.read_config(checkpoint_dir)
    tokenizer = checkpoint.load_tokenizer(checkpoint_dir)
    tokenizer.backend_tokenizer.save(str(work / TOKENIZER))
    files = {TOKENIZER: bundle.sha256(work / TOKENIZER)}
    for trace_part, name in ((_trace_prefill, PREFILL), (_trace_decode, DECODE)):
        model = trace_part(graph, manifest.opset)
        if whole_pixels and name == PREFILL:  # the score it gives is then the scoring graph's
            embed_whole_pixels(model)
        store_as_fp16(model)
        files |= store(model, work, name, inline_bytes=inline_bytes, shard_bytes=shard_bytes)
    writer = bundle.WriterFiles(
        PREFILL, DECODE, TOKENIZER, files, graph.score_ids.tolist(), system_message(config),
        checkpoint.score_question(config), bool(config.get("draft")),
    )  # fmt: skip
    manifest = replace(manifest, writer=asdict(writer))
    theirs = Critic(
        TorchWriter(graph, graph.score_head.device, torch.float32),
        TransformersTokenizer(tokenizer),
        system=writer.system_message,
        score_question=writer.score_question,
        name=manifest.name,
        tokens=manifest.tokens(),
        draft=writer.draft,
    )
    require_same_words(critic_onnx.load(work, manifest, "cpu", theirs.max_pixels), theirs)
    return manifest


def _trace_prefill(graph: ScoringGraph, opset: int) -> ir.Model:
    size = graph.input_size
    pixels = torch.zeros(1, 3, size, size, device=graph.score_head.device)
    return trace(
        _Prefill(graph), (pixels,), ["pixel_values"], ["score_logits", "cache"], None, opset
    )


def _trace_decode(graph: ScoringGraph, opset: int) -> ir.Model:
    device, shape = graph.score_head.device, graph.shape
    rows, length, slots, layers = 3, 4, 5, len(graph.decoder.layers)
    example = (
        torch.zeros(rows, length, dtype=torch.int64, device=device),
        torch.zeros(rows, length, dtype=torch.int64, device=device),
        torch.ones(rows, slots, dtype=torch.bool, device=device),
        torch.zeros(layers, 2, rows, shape.kv_heads, slots, shape.head_dim, device=device),
        torch.zeros(rows, dtype=torch.int64, device=device),
    )
    r, t, p = (torch.export.Dim(name, min=1) for name in ("rows", "new", "slots"))
    dynamic: dict[str, Any] = {
        "ids": {0: r, 1: t}, "positions": {0: r, 1: t}, "seen": {0: r, 1: p},
        "past": {2: r, 4: p}, "last": {0: r},
    }  # fmt: skip
    return trace(_Decode(graph), example, list(dynamic), ["logits", "present"], dynamic, opset)


def require_same_words(ours: Critic, theirs: Critic) -> None:
    """Raises ModelError at the first text that differs."""
    for number, picture in enumerate(render_pictures(PICTURES)):
        texts = [one.critique(picture, max_new_tokens=NEW_TOKENS).texts for one in (ours, theirs)]
        for attribute in ATTRIBUTES:
            got, wanted = (text[attribute.name] for text in texts)
            if got != wanted:
                raise ModelError(
                    f"the exported critique differs from torch's at picture {number}, "
                    f"{attribute.name}: {got[:60]!r}, expected {wanted[:60]!r}"
                )
