"""Export a checkpoint's scoring graph as an ONNX bundle, verified before it gets its name."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ..artimuse_core import bundle, checkpoint
from ..artimuse_core.engines import OnnxEngine, TorchEngine
from ..artimuse_core.errors import ModelError
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.outputs import new_directory
from ..artimuse_core.torch_graph import build_graph
from . import verify
from .quantize import reduce_precision

OPSET = 20
GRAPH = "score.onnx"


def export_onnx(
    checkpoint_dir: Path,
    output: Path,
    *,
    name: str = "",
    card: str = "",
    precision: str = "fp32",
) -> Path:
    """Write the bundle ``output`` (manifest, graph, golden answers) and return its directory.

    ``checkpoint_dir`` is of any layout; ``precision`` is one of ``quantize.PRECISIONS``. Facts
    about its training are taken from ``figures.json`` beside its weights, where there is one. The
    bundle is made in a temporary directory next to ``output`` and renamed only after
    :mod:`.verify` has passed it.

    Raises UsageError if ``output`` exists, ModelError if the checkpoint is unusable or the artifact
    does not agree with torch.
    """
    with new_directory(output) as work:
        _write_bundle(checkpoint_dir, work, name or checkpoint_dir.resolve().name, card, precision)
    return output


def _write_bundle(checkpoint_dir: Path, work: Path, name: str, card: str, precision: str) -> None:
    config = checkpoint.read_config(checkpoint_dir)
    graph, prompt = build_graph(checkpoint_dir)
    tokens = checkpoint.score_tokens(config)
    if not tokens.single_token:
        raise ModelError(f"{checkpoint_dir} answers in words ({tokens.name}); a graph has one pass")
    model = trace(graph.freeze(keep_text=False), graph.input_size, precision)
    data = model.SerializeToString()
    (work / GRAPH).write_bytes(data)
    training = _training_facts(checkpoint_dir)
    manifest = bundle.Manifest(
        name=name,
        card=card or training.get("card", f"{name}, exported from {checkpoint_dir.name}"),
        graph=GRAPH,
        graph_sha256=hashlib.sha256(data).hexdigest(),
        input_size=graph.input_size,
        score_tokens=tokens.name,
        token_table=dict(zip(tokens.tokens, tokens.values, strict=True)),
        precision=precision,
        prompt_sha256=hashlib.sha256(prompt.text(graph.image_tokens).encode()).hexdigest(),
        source_sha256=_weights_hash(checkpoint_dir),
        licence=training.get("licence", config.get("license", "")),
        data=training.get("data", ""),
        figures=training.get("figures", {}),
        tools={tool: version(tool) for tool in ("torch", "transformers", "onnx", "onnxruntime")}
        | {"python": platform.python_version()},
    )
    torch_engine = TorchEngine(checkpoint_dir, device="cpu", dtype="fp32")
    wanted = verify.answers(torch_engine, graph.input_size)
    np.savez(work / bundle.GOLDEN, score_logits=wanted)
    agreement = verify.compare(
        OnnxEngine(work, manifest, device="cpu"), wanted, manifest.tokens(), graph.input_size
    )
    verify.require(agreement, precision)
    bundle.write(work, replace(manifest, verification=asdict(agreement)))


class _Artifact(torch.nn.Module):
    def __init__(self, graph: ScoringGraph) -> None:
        super().__init__()
        self.scoring = graph  # `graph` is a name torch.fx keeps for itself

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scoring.score_and_embed(pixel_values)


def trace(graph: ScoringGraph, input_size: int, precision: str = "fp32") -> onnx.ModelProto:
    """The frozen graph as ONNX, batch dynamic, weights stored in fp16 where that loses nothing."""
    example = torch.zeros(2, 3, input_size, input_size)
    program = torch.onnx.export(
        _Artifact(graph).eval(),
        (example,),
        input_names=["pixel_values"],
        output_names=["score_logits", "embedding"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    model = reduce_precision(model, precision)
    store_as_fp16(model)
    del model.metadata_props[:]
    for node in model.graph.node:  # the exporter leaves stack traces with the maker's paths
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    return model


def store_as_fp16(model: onnx.ModelProto) -> None:
    """Halve the file: keep fp32 initialisers that are exactly fp16 as fp16, and cast them back.

    onnxruntime folds the casts when it loads the graph, so the computation stays fp32 throughout.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # beyond fp16's range becomes inf, and so is not equal
            half = values.astype(np.float16)
        if values.size < 64 or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _training_facts(checkpoint_dir: Path) -> dict[str, Any]:
    path = checkpoint_dir / "figures.json"
    if not path.exists():
        return {}
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _weights_hash(checkpoint_dir: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(checkpoint_dir.glob("*.safetensors")):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
