"""A bundle with a plan for TensorRT, its engine built and verified on the GPU at hand.

Written after the documentation of onnxruntime's TensorRT provider; not run on a GPU yet.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..artimuse_core import bundle, tensorrt
from ..artimuse_core.errors import ModelError, UsageError
from ..artimuse_core.images import one_line
from ..artimuse_core.outputs import new_directory
from . import tensorrt_check, verify
from .fp8 import insert_scales

OPSET = 20
"""The newest that TensorRT 10's parser takes."""
ENGINE = "score.engine"
FIRST_TYPED = 11
"""Before, a builder wants a switch for fp8 that onnxruntime's provider does not have."""


@dataclass(frozen=True)
class Survey:
    """What ``--dry-run`` tells."""

    plan: tensorrt.Plan
    input_size: int
    operators: list[str]
    """What TensorRT refuses of the graph."""
    missing: list[str]
    """What this machine lacks."""

    def lines(self) -> Iterator[str]:
        plan = self.plan
        yield f"precision {plan.precision}, taken from the graph; workspace {plan.workspace_gb} GB"
        for name, shape in plan.shapes(self.input_size).items():
            yield f"{name} {shape}"
        yield from (f"TensorRT refuses: {line}" for line in self.operators)
        if not self.operators:
            yield "operators: all on TensorRT's list"
        yield from (f"missing here: {line}" for line in self.missing)


def survey(source: Path, plan: tensorrt.Plan) -> Survey:
    """What an export would do, and what stands in its way; writes nothing that stays."""
    if _has_only_a_graph(source):
        manifest = _usable(source, plan)
        model, size = ir.load(source / manifest.graph), manifest.input_size
    else:
        from ..artimuse_core.torch_graph import build_graph
        from .trace import TRACED_IN, trace_scorer

        graph, _ = build_graph(source)
        graph.freeze(keep_text=False).to(TRACED_IN[plan.precision])
        model, size = trace_scorer(graph, opset=OPSET), graph.input_size
        if plan.precision == "fp8":
            insert_scales(model)
    return Survey(plan, size, tensorrt_check.problems(model), tensorrt.missing())


def export_tensorrt(
    source: Path, output: Path, plan: tensorrt.Plan, *, name: str = "", images: Sequence[Path] = ()
) -> bundle.Manifest:
    """Write the bundle ``output`` from a checkpoint or an ONNX bundle of the plan's precision.

    The engine is built for this machine and verified like any artifact before the bundle gets its
    name; on another machine it is built again when the bundle is first loaded. Where the
    ``tensorrt`` package or ``trtexec`` is there, a plain ``score.engine`` is written as well.

    Raises UsageError if ``output`` exists or the bundle is of another precision, ModelError with
    what is missing on a machine that cannot build engines.
    """
    if lacks := tensorrt.missing():
        raise ModelError(f"TensorRT engines are built on the GPU they run on; missing: {lacks[0]}")
    if plan.precision == "fp8":
        _require_types()
    with new_directory(output) as work:
        made = work / "bundle"
        if _has_only_a_graph(source):
            _usable(source, plan)
            shutil.copytree(source, made, ignore=shutil.ignore_patterns("engines"))
        else:
            from .to_onnx import Recipe, export_onnx

            recipe = Recipe(plan.precision, opset=OPSET, device="auto")
            export_onnx(source, made, recipe, name=name, images=images)
        for file in made.iterdir():
            shutil.move(file, work / file.name)
        made.rmdir()
        manifest = bundle.read(work)
        if refused := tensorrt_check.problems(ir.load(work / manifest.graph)):
            raise ModelError(f"TensorRT refuses this graph: {'; '.join(refused)}")
        manifest = replace(manifest, tensorrt=asdict(plan))
        bundle.write(work, manifest)
        agreement = verify.verify_bundle(work, "tensorrt")  # builds the engine
        manifest = replace(manifest, verification=asdict(agreement))
        bundle.write(work, manifest)
        plain_engine(work / manifest.graph, work / ENGINE, plan, manifest.input_size)
    return manifest


def _require_types() -> None:
    """fp8 is taken from the graph's types, which onnxruntime has of TensorRT 11 alone."""
    found = tensorrt.this_machine().tensorrt
    major = found.partition(".")[0]  # no number where the system's package manager installed it
    if major.isdecimal() and int(major) < FIRST_TYPED:
        raise ModelError(
            f"onnxruntime takes fp8 from TensorRT {FIRST_TYPED} on, here is {found}; for an engine "
            "without onnxruntime: artimuse export onnx --precision fp8, then trtexec "
            "--stronglyTyped over its score.onnx; or --precision fp16"
        )


def _has_only_a_graph(source: Path) -> bool:
    """The embedded model is a bundle and a checkpoint in one; such are exported anew."""
    return bundle.is_bundle(source) and not any(source.glob("*.safetensors"))


def _usable(source: Path, plan: tensorrt.Plan) -> bundle.Manifest:
    manifest = bundle.read(source)
    bundle.check_files(source, manifest.files)
    if (manifest.precision, manifest.batch) != (plan.precision, 0):
        batch = manifest.batch or "dynamic"
        raise UsageError(
            f"{source} is {manifest.precision} with batch {batch}; TensorRT takes the precision "
            f"from the graph: export the checkpoint with --precision {plan.precision} --batch "
            "dynamic, or give the checkpoint itself"
        )
    return manifest


def plain_engine(graph: Path, output: Path, plan: tensorrt.Plan, size: int) -> None:
    """Write an engine that needs no onnxruntime, where there is something to build it with."""
    trtexec = shutil.which("trtexec")
    if trtexec:
        command = trtexec_command(trtexec, graph, output, plan, size)
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise ModelError(f"trtexec failed: {one_line(RuntimeError(error.stderr))}") from error
        return
    try:
        import tensorrt as trt
    except ImportError:
        return
    output.write_bytes(_built(trt, graph, plan, size))


def trtexec_command(
    trtexec: str, graph: Path, output: Path, plan: tensorrt.Plan, size: int
) -> list[str]:
    shapes = plan.shapes(size)
    return [
        trtexec, f"--onnx={graph}", f"--saveEngine={output}", "--stronglyTyped", "--skipInference",
        *(f"--{name}Shapes={shape}" for name, shape in shapes.items()),
        f"--memPoolSize=workspace:{int(plan.workspace_gb * 1024)}M",
        f"--timingCacheFile={output.with_suffix('.timing')}",
    ]  # fmt: skip


def _built(trt: Any, graph: Path, plan: tensorrt.Plan, size: int) -> bytes:
    """The serialized engine, through TensorRT's Python API."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ModelError(f"TensorRT refuses this graph: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(plan.workspace_gb * 2**30))
    profile = builder.create_optimization_profile()
    batches = (plan.min_batch, plan.opt_batch, plan.max_batch)
    profile.set_shape("pixel_values", *((batch, 3, size, size) for batch in batches))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError("TensorRT built no engine; its log on stderr says why")
    return bytes(engine)
