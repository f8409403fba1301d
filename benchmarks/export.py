"""What an exported artifact gains: torch and onnxruntime side by side in one run on the CPU.

    python benchmarks/export.py                          # nano
    python benchmarks/export.py --model DIR --images 4   # a large one
    python benchmarks/export.py --opsets 18,20,21,22,23,24 --precisions "" --no-torch
    python benchmarks/export.py --whole-pixels --no-torch
    python benchmarks/export.py --tools --precisions int8 --no-torch   # other people's tools

Two tables. In the first each side loads and runs in a process of its own, in turns, so that memory
is each side's. In the second (--opsets, --tools, --whole-pixels) all graphs run in one process, in
turns. --tools compares static quantization, offline optimisation and, in an environment with the
extra optimum, ORTQuantizer and ORTOptimizer. ``--work`` keeps the bundles for another run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.models import locate
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.export import verify

import machine

GRAPH = "score.onnx"
Run = Callable[[Any], Any]


def open_torch(path: Path, threads: int, compiled: bool) -> tuple[Run, int]:
    import torch

    from artimuse.artimuse_core.engines import TorchEngine

    torch.set_num_threads(threads)
    engine = TorchEngine(path, device="cpu", dtype="fp32", compiled=compiled)
    return engine.score_logits, engine.input_size


def open_graph(path: Path, threads: int) -> tuple[Run, int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def run(pixels: Any) -> Any:
        return session.run(["score_logits"], {"pixel_values": pixels})[0]

    return run, session.get_inputs()[0].shape[2]


def measure(sides: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """All of ``sides`` in this process, in turns."""
    opened: dict[str, Run] = {}
    answer: dict[str, Any] = {side: {"rates": []} for side in sides}
    for side, path in sides.items():
        start = time.perf_counter()
        if side.startswith("torch"):
            opened[side], size = open_torch(path, options.threads, side == "torch.compile")
        else:
            opened[side], size = open_graph(path, options.threads)
        answer[side]["load"] = time.perf_counter() - start
    pixels = verify.rendered_pixels(size)[: options.images]
    batches = [pixels[i : i + options.batch] for i in range(0, len(pixels), options.batch)]
    for side, run in opened.items():
        start = time.perf_counter()
        run(batches[0])
        answer[side]["first"] = time.perf_counter() - start
    for _ in range(options.turns):
        for side, run in opened.items():
            start = time.perf_counter()
            logits = np.concatenate([run(part) for part in batches])
            answer[side]["rates"].append(len(pixels) / (time.perf_counter() - start))
            answer[side]["scores"] = ORDERED_100.readout(logits).score.tolist()
    status = Path("/proc/self/status").read_text()
    for one in answer.values():
        one["mb"] = int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    return answer


def tool_variants(fp32: Path, work: Path, source: Path) -> dict[str, Path]:
    """The fp32 graph as other tools make it."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from artimuse.export import optimum_tools

    def offline(level: Any, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(fp32, options, ["CPUExecutionProvider"])

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            size = bundle.read(fp32.parent).input_size
            self.left = iter(verify.rendered_pixels(size)[:32])

        def get_next(self) -> dict[str, Any] | None:
            one = next(self.left, None)
            return None if one is None else {"pixel_values": one[None]}

    def static(path: Path) -> None:
        quantize_static(
            fp32, path, Reader(), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip

    levels = onnxruntime.GraphOptimizationLevel
    made: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "onnxruntime, optimised offline, extended": (
            work / "extended.onnx", partial(offline, levels.ORT_ENABLE_EXTENDED)),
        "onnxruntime, optimised offline, all": (
            work / "all.onnx", partial(offline, levels.ORT_ENABLE_ALL)),
        "onnxruntime quantize_static, int8": (work / "static.onnx", static),
    }  # fmt: skip
    try:
        optimum_tools.require()
    except Exception as error:
        print(f"left out: {error}", file=sys.stderr)
    else:
        vision = json.loads((source / "config.json").read_text())["vision_config"]
        shape = {"heads": vision["num_attention_heads"], "width": vision["hidden_size"]}
        written = f"optimum/{fp32.stem}_optimum.onnx"
        made["optimum ORTQuantizer, int8"] = (
            work / "q" / written,
            lambda path: optimum_tools.quantize(fp32, work / "q"),
        )
        for level in (1, 2, 99):
            folder = work / f"o{level}"
            made[f"optimum ORTOptimizer, level {level}"] = (
                folder / written,
                lambda path, level=level, folder=folder: optimum_tools.optimize(
                    fp32, folder, level=level, **shape
                ),
            )
    for path, make in made.values():
        if not path.exists():
            make(path)
    return {label: path for label, (path, _) in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--precisions", default="int8,int4", help="besides fp32")
    parser.add_argument("--opsets", default="", help="fp32 once more at each of these")
    parser.add_argument("--tools", action="store_true")
    parser.add_argument("--ways", action="store_true", help="each way to int8, verified or not")
    parser.add_argument("--whole-pixels", action="store_true", help="fp32 and int8 so as well")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--images", type=int, default=64, help="a round, at most 64")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of processes")
    parser.add_argument("--turns", type=int, default=5, help="within a process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where to keep the bundles")
    parser.add_argument("--sides", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sides:
        sides = {side: Path(path) for side, path in options.sides.items()}
        print(json.dumps(measure(sides, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(locate(options.model), options.work or Path(folder), options)


def compare(source: Path, work: Path, options: argparse.Namespace) -> None:
    # Only here: a side that needs no torch is to be measured without it.
    from artimuse.artimuse_core.torch_graph import build_graph
    from artimuse.export.quantize import WAYS, Staged
    from artimuse.export.store import store
    from artimuse.export.to_onnx import Recipe, export_onnx
    from artimuse.export.trace import trace_scorer

    def made(name: str, recipe: Recipe) -> Path:
        if not (work / name).exists():
            export_onnx(source, work / name, recipe)
        return work / name / GRAPH

    fp32 = made("fp32", Recipe())
    apart = {} if options.no_torch else {"torch": source, "torch.compile": source}
    apart["onnxruntime fp32"] = fp32
    for precision in filter(None, options.precisions.split(",")):
        apart[f"onnxruntime {precision}"] = made(precision, Recipe(precision))
    together = {"onnxruntime fp32": fp32}
    for opset in filter(None, options.opsets.split(",")):
        together[f"opset {opset}"] = made(f"opset{opset}", Recipe(opset=int(opset)))
    if options.ways:
        # Not exported, for an export refuses what this is to measure.
        staged = Staged(work / "ways" / "fp32.onnx", external=False)
        if not staged.path.exists():
            staged.path.parent.mkdir(parents=True)
            graph = build_graph(source)[0].freeze(keep_text=False)
            store(trace_scorer(graph), staged.path.parent, staged.path.name)
        for number, way in enumerate(WAYS["int8"]):
            path = work / "ways" / f"{number}.onnx"
            if not path.exists():
                store(way.make(staged), path.parent, path.name)
            together[f"int8: {way.quantization}"] = path
    for precision in ("fp32", "int8") if options.whole_pixels else ():
        recipe = Recipe(precision, whole_pixels=True)
        together[f"onnxruntime {precision}, whole pixels"] = made(f"{precision}-whole", recipe)
    if options.tools:
        together |= {side: path for side, path in apart.items() if side.startswith("onnx")}
        together |= tool_variants(fp32, work, source)

    print(f"{machine.describe()}; {options.model}, batch {options.batch}, {options.threads} "
          f"threads, {options.images} images\n")  # fmt: skip
    wanted = ORDERED_100.readout(bundle.golden_logits(fp32.parent)[: options.images]).score
    rounds = [
        {side: child({side: path}, options)[side] for side, path in apart.items()}
        for _ in range(options.rounds)
    ]
    table(apart, rounds, wanted)
    if len(together) > 1:
        print("\nIn one process:\n")
        table(together, [child(together, options)], wanted)


def child(sides: dict[str, Path], options: argparse.Namespace) -> Any:
    named = json.dumps({side: str(path) for side, path in sides.items()})
    command = [sys.executable, __file__, "--sides", named]
    for name in ("images", "batch", "turns", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def table(sides: dict[str, Path], rounds: list[dict[str, Any]], wanted: Any) -> None:
    base = next(iter(sides))
    print(f"| | images/s | times {base} | load, s | first batch, s | peak MB | files MB "
          "| score error, mean | at most | SRCC |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for side, path in sides.items():
        runs = [one[side] for one in rounds]
        rates = [rate for run in runs for rate in run["rates"]]
        ratio = statistics.median(
            rate / other
            for one in rounds
            for rate, other in zip(one[side]["rates"], one[base]["rates"], strict=True)
        )
        load, first = (statistics.median(run[key] for run in runs) for key in ("load", "first"))
        scores = np.array(runs[0]["scores"], np.float32)
        errors = np.abs(scores - wanted)
        files = (
            [path, *path.parent.glob("*.data")] if path.is_file() else path.glob("*.safetensors")
        )
        size = sum(file.stat().st_size for file in files) / 1e6
        print(
            f"| {side} | {statistics.median(rates):.3g} | {ratio:.2f} | {load:.2f} | {first:.2f} "
            f"| {max(run['mb'] for run in runs):.0f} | {size:.1f} | {errors.mean():.2g} "
            f"| {errors.max():.2g} | {verify.srcc(scores, wanted):.4f} |"
        )


if __name__ == "__main__":
    main()
