"""Export a checkpoint's scoring graph as an ONNX bundle, verified before it gets its name."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..artimuse_core import bundle, checkpoint
from ..artimuse_core.errors import ModelError, UsageError
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.models import name_of
from ..artimuse_core.outputs import new_directory
from ..artimuse_core.torch_graph import build_graph, pick_device
from . import optimum_tools, verify
from .critique import require_writes, write_critique
from .quantize import PREPARED, WAYS, Staged
from .store import INLINE_BYTES, SHARD_BYTES, store, store_as_fp16
from .trace import DTYPES, OPSET, OPSETS, TRACED_IN, trace_scorer
from .whole_pixels import SAID, embed_whole_pixels

GRAPH = "score.onnx"
PRECISIONS = (*DTYPES, *WAYS)
_log = logging.getLogger(__name__)
TOOLS = ("onnxruntime", "optimum")


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made."""

    precision: str = "fp32"
    """fp32, fp16 or bf16 computation, or int8, int4 or fp8 weights."""
    batch: int = 0
    """Images a run takes; 0 leaves it open."""
    opset: int = OPSET
    device: str = "cpu"
    """Where torch answers and the artifact is verified."""
    critique: bool = False
    """Export the graphs that write critiques as well; in fp32."""
    whole_pixels: bool = False
    """Multiply pixels and patch filters as whole numbers, see :mod:`.whole_pixels`."""
    tools: str = "onnxruntime"
    """Whose quantizer (int8), or graph optimizer (fp32)."""
    inline_bytes: int = INLINE_BYTES
    """Weights beyond this get files of their own."""
    shard_bytes: int = SHARD_BYTES
    """Size of such a file."""

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("opset", OPSETS), ("tools", TOOLS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(map(str, known))}"
                )
        if self.tools == "optimum" and self.precision not in ("fp32", "int8"):
            raise UsageError(
                f"tools 'optimum' optimize fp32 and quantize to int8, not {self.precision}"
            )
        if self.whole_pixels and TRACED_IN[self.precision] is not torch.float32:
            raise UsageError(
                f"whole pixels are multiplied in a graph of fp32, not of {self.precision}"
            )
        if self.batch < 0:
            raise UsageError(f"expected a batch of at least 1, or 0 for any, got {self.batch}")


def export_onnx(
    checkpoint_dir: Path,
    output: Path,
    recipe: Recipe | None = None,
    *,
    name: str = "",
    card: str = "",
    images: Sequence[Path] = (),
) -> bundle.Manifest:
    """Write the bundle ``output`` (manifest, graph, golden answers) and return its manifest.

    ``checkpoint_dir`` is of any layout; ``images`` are verified on besides the rendered pictures.
    Facts about the training are taken from ``figures.json`` beside the weights, where there is one.
    The bundle is made in a temporary directory next to ``output`` and renamed only after
    :mod:`.verify` has passed it.

    The checkpoint is read once. Torch's answers are taken first, then the weights are cast in
    place, traced, and written from where they lie, so that memory holds them once.

    Raises UsageError if ``output`` exists, ModelError if the checkpoint is unusable or the artifact
    does not agree with torch.
    """
    recipe = recipe or Recipe()
    if recipe.critique:
        require_writes(checkpoint_dir, recipe.precision)
    if recipe.tools == "optimum":
        optimum_tools.require()
    tokens = checkpoint.score_tokens(checkpoint.read_config(checkpoint_dir))
    if not tokens.single_token:
        raise ModelError(f"{checkpoint_dir} answers in words ({tokens.name}); a graph has one pass")
    with new_directory(output) as work:
        facts = _facts(checkpoint_dir, name or name_of(checkpoint_dir), card)
        graph, prompt = build_graph(checkpoint_dir, device=pick_device(recipe.device))
        graph.freeze(keep_text=recipe.critique)
        pixels = np.concatenate(
            [
                verify.rendered_pixels(graph.input_size),
                verify.real_pixels(images, graph.input_size),
            ]
        )
        wanted = verify.answers(partial(torch_logits, graph), pixels)
        verify.write_golden(work, wanted, pixels)
        prompt_text = prompt.text(graph.image_tokens).encode()
        manifest = bundle.Manifest(
            **facts,
            graph=GRAPH,
            graph_sha256="",
            input_size=graph.input_size,
            score_tokens=tokens.name,
            token_table=dict(zip(tokens.tokens, tokens.values, strict=True)),
            precision=recipe.precision,
            batch=recipe.batch,
            opset=recipe.opset,
            prompt_sha256=hashlib.sha256(prompt_text).hexdigest(),
        )
        if recipe.critique:
            manifest = write_critique(
                graph,
                checkpoint_dir,
                work,
                manifest,
                whole_pixels=recipe.whole_pixels,
                inline_bytes=recipe.inline_bytes,
                shard_bytes=recipe.shard_bytes,
            )
        for made in written(graph, work, manifest, recipe):
            artifact, ran_on = verify.open_artifact(work, made, recipe.device)
            agreement = verify.compare(artifact, ran_on, wanted, tokens, pixels)
            del artifact
            if verify.holds(agreement, recipe.precision):
                break
            _log.info("refused (%s): %s", made.quantization or recipe.precision, agreement)
        verify.require(agreement, recipe.precision)
        manifest = replace(made, verification=asdict(agreement))
        bundle.write(work, manifest)
    return manifest


def written(
    graph: ScoringGraph, work: Path, manifest: bundle.Manifest, recipe: Recipe
) -> Iterator[bundle.Manifest]:
    """Write the frozen graph's files into ``work``; the manifest with their hashes.

    Where the precision can be had in several ways, the files of each replace the last one's.
    Uses ``graph`` up: torch's copy of the weights is let go of before the first artifact is handed
    out.
    """
    graph.to(TRACED_IN[recipe.precision])
    model = trace_scorer(graph, batch=recipe.batch, opset=recipe.opset)
    if recipe.whole_pixels:
        embed_whole_pixels(model)
    whole = [SAID] if recipe.whole_pixels else []
    manifest = replace(manifest, quantization="; ".join(whole))
    if recipe.precision not in WAYS and recipe.tools == TOOLS[0]:
        manifest = _stored(model, work, manifest, recipe)
        del model
        graph.to("meta")
        yield manifest
        return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "staged.onnx"
        model.metadata_props.update(PREPARED)
        files = store(model, path.parent, path.name, inline_bytes=recipe.inline_bytes)
        heads, width = graph.vision_heads, graph.vision.config.hidden_size
        del model
        graph.to("meta")  # the file is the only copy now
        if recipe.tools == TOOLS[0]:
            staged = Staged(path, external=len(files) > 1, device=recipe.device)
            for way in WAYS[recipe.precision]:
                for file in manifest.files:
                    (work / file).unlink(missing_ok=True)
                said = replace(manifest, quantization="; ".join([way.quantization, *whole]))
                manifest = _stored(way.make(staged), work, said, recipe)
                yield manifest
        elif recipe.precision == "int8":
            made = optimum_tools.quantize(path, path.parent)
            yield _stored(ir.load(made), work, manifest, recipe)
        else:
            made = optimum_tools.optimize(path, path.parent, heads=heads, width=width)
            yield _stored(ir.load(made), work, manifest, recipe)


def _stored(
    model: ir.Model, work: Path, manifest: bundle.Manifest, recipe: Recipe
) -> bundle.Manifest:
    store_as_fp16(model)
    model.metadata_props.clear()
    model.metadata_props.update(_metadata(manifest))
    files = store(
        model,
        work,
        GRAPH,
        inline_bytes=recipe.inline_bytes,
        shard_bytes=recipe.shard_bytes,
        standard=recipe.tools == TOOLS[0],
    )
    return replace(manifest, graph_sha256=files.pop(GRAPH), data_sha256=files)


def torch_logits(graph: ScoringGraph, pixel_values: verify.Floats) -> verify.Floats:
    """(B, 3, S, S) → (B, K), as torch answers in fp32."""
    with torch.inference_mode():
        pixels = torch.from_numpy(pixel_values).to(graph.score_head.device)
        logits: verify.Floats = graph(pixels).cpu().numpy()
    return logits


def _metadata(manifest: bundle.Manifest) -> dict[str, str]:
    """What the graph's own file says of itself, for whoever finds it alone."""
    said = {
        key: getattr(manifest, key)
        for key in (
            "name", "card", "precision", "quantization", "input_size", "score_tokens",
            "prompt_sha256", "source_sha256", "licence", "format",
        )
    }  # fmt: skip
    said["preprocessing"] = json.dumps(manifest.preprocessing)
    said["token_table"] = json.dumps(manifest.token_table)
    return {f"artimuse.{key}": str(value) for key, value in said.items() if value != ""}


def _facts(checkpoint_dir: Path, name: str, card: str) -> dict[str, Any]:
    """The part of the manifest that the checkpoint's files say."""
    path = checkpoint_dir / "figures.json"
    training = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    config = checkpoint.read_config(checkpoint_dir)
    return {
        "name": name,
        "card": card or training.get("card", f"{name}, exported from {checkpoint_dir.name}"),
        "source_sha256": bundle.sha256(*sorted(checkpoint_dir.glob("*.safetensors"))),
        "licence": training.get("licence", config.get("license", "")),
        "data": training.get("data", ""),
        "figures": training.get("figures", {}),
        "tools": {tool: version(tool) for tool in ("torch", "transformers", "onnx", "onnxruntime")}
        | {"python": platform.python_version()},
    }
