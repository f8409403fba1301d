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

from ..artimuse_core import bundle, checkpoint, selftest
from ..artimuse_core.engines import OnnxEngine, TorchEngine
from ..artimuse_core.outputs import new_directory
from ..artimuse_core.preprocess import preprocess_batch
from ..artimuse_core.score_tokens import ORDERED_100
from ..artimuse_core.torch_graph import build_graph
from . import verify

OPSET = 20
GRAPH = "score.onnx"


def export_onnx(checkpoint_dir: Path, output: Path, *, name: str = "", card: str = "") -> Path:
    """Write the bundle ``output`` (manifest and graph) and return its directory.

    ``checkpoint_dir`` is in the official InternVLChat format. Facts about its training are taken
    from ``figures.json`` beside its weights, where there is one. The bundle is made in a temporary
    directory next to ``output`` and renamed only after :mod:`.verify` has passed it.

    Raises UsageError if ``output`` exists, ModelError if the checkpoint is unusable or the artifact
    does not agree with torch.
    """
    with new_directory(output) as work:
        _write_bundle(checkpoint_dir, work, name or checkpoint_dir.resolve().name, card)
    return output


def _write_bundle(checkpoint_dir: Path, work: Path, name: str, card: str) -> None:
    config = checkpoint.read_config(checkpoint_dir)
    graph, prompt = build_graph(checkpoint_dir)
    model = trace(graph.freeze(), graph.input_size)
    data = model.SerializeToString()
    (work / GRAPH).write_bytes(data)
    training = _training_facts(checkpoint_dir)
    manifest = bundle.Manifest(
        name=name,
        card=card or training.get("card", f"{name}, exported from {checkpoint_dir.name}"),
        graph=GRAPH,
        graph_sha256=hashlib.sha256(data).hexdigest(),
        input_size=graph.input_size,
        score_tokens=ORDERED_100.name,
        token_table=dict(zip(ORDERED_100.tokens, ORDERED_100.values, strict=True)),
        precision="fp32",
        prompt_sha256=hashlib.sha256(prompt.text(graph.image_tokens).encode()).hexdigest(),
        source_sha256=_weights_hash(checkpoint_dir),
        licence=training.get("licence", config.get("license", "")),
        data=training.get("data", ""),
        figures=training.get("figures", {}),
        tools={tool: version(tool) for tool in ("torch", "transformers", "onnx", "onnxruntime")}
        | {"python": platform.python_version()},
    )
    torch_engine = TorchEngine(checkpoint_dir, device="cpu", dtype="fp32")
    answers = torch_engine.score_logits(preprocess_batch(selftest.pictures(), graph.input_size))
    golden = json.dumps({"score_logits": np.round(answers.astype(float), 5).tolist()})
    (work / selftest.LOGITS).write_text(golden + "\n", encoding="utf-8")
    agreement = verify.compare(
        OnnxEngine(work, manifest, device="cpu"),
        torch_engine,
        manifest.tokens(),
        manifest.input_size,
    )
    verify.require(agreement)
    bundle.write(work, replace(manifest, verification=asdict(agreement)))


def trace(graph: torch.nn.Module, input_size: int) -> onnx.ModelProto:
    """The frozen graph as ONNX, batch dynamic, weights stored in fp16 where that loses nothing."""
    example = torch.zeros(2, 3, input_size, input_size)
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=["pixel_values"],
        output_names=["score_logits"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
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
