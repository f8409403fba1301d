"""What an exported artifact gains: torch and onnxruntime side by side in one run on the CPU.

    python benchmarks/export.py                          # nano
    python benchmarks/export.py --model DIR --images 4   # a large one
    python benchmarks/export.py --opsets 18,20,21,22,23,24 --precisions fp32 --no-torch
    python benchmarks/export.py --tools --precisions fp32,int8 --no-torch   # other people's tools

Each side loads and runs in a process of its own, in turns, so that memory is each side's and a busy
machine slows all of them. ``--tools`` adds static quantization, offline optimisation and, in an
environment with the extra ``optimum``, ORTQuantizer and ORTOptimizer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.models import locate
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.export import verify

import machine

GRAPH = "score.onnx"


def measure(side: str, path: Path, images: int, batch: int, threads: int) -> dict[str, Any]:
    """One side in this process."""
    start = time.perf_counter()
    run: Callable[[Any], Any]
    if side.startswith("torch"):
        import torch

        from artimuse.artimuse_core.engines import TorchEngine

        torch.set_num_threads(threads)
        engine = TorchEngine(path, device="cpu", dtype="fp32", compiled=side == "torch.compile")
        run, size = engine.score_logits, engine.input_size
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        size = session.get_inputs()[0].shape[2]

        def run(pixels: Any) -> Any:
            return session.run(["score_logits"], {"pixel_values": pixels})[0]

    pixels = verify.rendered_pixels(size)[:images]
    batches = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]
    run(batches[0])
    ready = time.perf_counter() - start
    seconds = []
    logits = []
    for part in batches:
        start = time.perf_counter()
        logits.append(run(part))
        seconds.append((time.perf_counter() - start) / len(part))
    status = Path("/proc/self/status").read_text()
    return {
        "ready": ready,
        "rate": 1 / statistics.median(seconds),
        "gb": int(status.partition("VmHWM:")[2].split()[0]) / 1e6,
        "scores": ORDERED_100.readout(np.concatenate(logits)).score.tolist(),
    }


def tool_variants(fp32: Path, work: Path, heads: int, width: int) -> Iterator[tuple[str, Path]]:
    """The fp32 graph as other tools make it."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from artimuse.export import optimum_tools

    for name, level in (("extended", "ORT_ENABLE_EXTENDED"), ("all", "ORT_ENABLE_ALL")):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(work / f"{name}.onnx")
        onnxruntime.InferenceSession(fp32, options, ["CPUExecutionProvider"])
        yield f"onnxruntime optimised offline, {name}", work / f"{name}.onnx"

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            size = bundle.read(fp32.parent).input_size
            self.left = iter(verify.rendered_pixels(size)[:32])

        def get_next(self) -> dict[str, Any] | None:
            one = next(self.left, None)
            return None if one is None else {"pixel_values": one[None]}

    quantize_static(
        fp32, work / "static.onnx", Reader(), op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    yield "onnxruntime quantize_static, int8", work / "static.onnx"
    try:
        optimum_tools.require()
        yield "optimum ORTQuantizer, int8", optimum_tools.quantize(fp32, work / "q")
        for level in (1, 2, 99):
            yield (
                f"optimum ORTOptimizer, level {level}",
                optimum_tools.optimize(
                    fp32, work / f"o{level}", heads=heads, width=width, level=level
                ),
            )
    except Exception as error:
        print(f"optimum: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--precisions", default="fp32,int8,int4")
    parser.add_argument("--opsets", default="", help="fp32 once more at each of these")
    parser.add_argument("--tools", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--images", type=int, default=64, help="a round, at most 64")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.path, options.images, options.batch,
                                 options.threads)))  # fmt: skip
        return

    # Only here: a side that needs no torch is to be measured without it.
    from artimuse.export.to_onnx import Recipe, export_onnx

    source = locate(options.model)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sides: dict[str, Path] = {}
        if not options.no_torch:
            sides |= {"torch": source, "torch.compile": source}
        for precision in options.precisions.split(","):
            export_onnx(source, work / precision, Recipe(precision))
            sides[f"onnxruntime {precision}"] = work / precision / GRAPH
        for opset in filter(None, options.opsets.split(",")):
            export_onnx(source, work / f"opset{opset}", Recipe(opset=int(opset)))
            sides[f"onnxruntime fp32, opset {opset}"] = work / f"opset{opset}" / GRAPH
        if options.tools:
            vision = json.loads((source / "config.json").read_text())["vision_config"]
            sides |= dict(
                tool_variants(
                    work / "fp32" / GRAPH, work, vision["num_attention_heads"],
                    vision["hidden_size"],
                )
            )  # fmt: skip
        table(sides, source, work, options)


def table(sides: dict[str, Path], source: Path, work: Path, options: argparse.Namespace) -> None:
    def child(side: str, path: Path) -> Any:
        command = [sys.executable, __file__, "--side", side, "--path", str(path),
                   "--images", str(options.images), "--batch", str(options.batch),
                   "--threads", str(options.threads)]  # fmt: skip
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    rounds: dict[str, list[Any]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, path in sides.items():
            rounds[side].append(child(side, path))
    golden = bundle.golden_logits(next(p.parent for p in sides.values() if p.parent.parent == work))
    wanted = ORDERED_100.readout(golden[: options.images]).score
    base = next(iter(sides))
    print(f"{machine.describe()}; {options.model}, batch {options.batch}, {options.threads} "
          f"threads, {options.images} images a round, {options.rounds} rounds\n")  # fmt: skip
    print(f"| | images/s | times {base} | load and first batch, s | peak MB | files MB "
          "| score error, mean | at most | SRCC |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for side, runs in rounds.items():
        pairs = zip(runs, rounds[base], strict=True)
        ratio = statistics.median(one["rate"] / other["rate"] for one, other in pairs)
        scores = np.array(runs[0]["scores"], np.float32)
        errors = np.abs(scores - wanted)
        path = sides[side]
        files = (
            [path, *path.parent.glob("*.data")] if path.is_file() else path.glob("*.safetensors")
        )
        size = sum(file.stat().st_size for file in files) / 1e6
        print(
            f"| {side} | {statistics.median(run['rate'] for run in runs):.3g} | {ratio:.2f} "
            f"| {statistics.median(run['ready'] for run in runs):.2f} "
            f"| {max(run['gb'] for run in runs) * 1e3:.0f} | {size:.1f} | {errors.mean():.2g} "
            f"| {errors.max():.2g} | {verify.srcc(scores, wanted):.4f} |"
        )


if __name__ == "__main__":
    main()
