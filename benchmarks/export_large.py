"""What exporting a large checkpoint takes: a 1B shape with random weights, in every precision.

    python benchmarks/export_large.py --size 112 --work build/large

Weights do not fit into one protobuf file here. Each export runs in a process of its own, from a
checkpoint in half precision, and is verified as always; another process then opens the artifact and
scores. Prints a table in Markdown. ``--size`` is the side of the images: 448 as published, less
where a CPU would take hours; the weights are the same. Wants 16 GB of memory and of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from score import SHAPES, VISION, forget_peak, peak_gb

from artimuse.artimuse_core import bundle, checkpoint
from artimuse.artimuse_core.errors import ArtiMuseError
from artimuse.artimuse_core.pictures import render_pictures
from artimuse.artimuse_core.prompts import IMG_CONTEXT
from artimuse.artimuse_core.scorer import Scorer
from artimuse.training.nano import NanoShape
from artimuse.training.tokenizer import build_tokenizer, corpus, save_tokenizer

import machine


def random_checkpoint(directory: Path, shape: str, size: int) -> Path:
    """In the official format and bf16; scaled so that scores depend on the image."""
    words = NanoShape()
    tokenizer = build_tokenizer(corpus(words.score_question, words.system_message))
    save_tokenizer(tokenizer, directory)
    config = words.config(SHAPES[shape]["vocab_size"])
    config["force_image_size"] = size
    config["vision_config"] |= VISION | {"image_size": size}
    config["llm_config"] |= SHAPES[shape]
    torch.manual_seed(0)
    image_token = tokenizer.token_to_id(IMG_CONTEXT)
    model = checkpoint.build_model(config, image_token).to(torch.bfloat16)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "position" not in name and "cls_token" not in name:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif "lambda" in name:
            torch.nn.init.constant_(weight, 0.5)
    checkpoint.save_model(directory, model, config, torch.bfloat16)
    return directory


def export(source: Path, output: Path, precision: str) -> dict[str, Any]:
    """In this process."""
    from artimuse.export.to_onnx import Recipe, export_onnx

    forget_peak("cpu")
    started = time.perf_counter()
    try:
        verified = export_onnx(source, output, Recipe(precision)).verification
    except ArtiMuseError as error:
        return {"refused": str(error), "gb": peak_gb("cpu")}
    return {**verified, "seconds": time.perf_counter() - started, "gb": peak_gb("cpu")}


def score(output: Path) -> dict[str, Any]:
    """In this process: open the artifact and score one picture."""
    forget_peak("cpu")
    started = time.perf_counter()
    try:
        Scorer.load(output, "cpu").score(render_pictures(1))
    except ArtiMuseError as error:  # bf16 is for GPUs
        return {"refused": str(error)}
    return {"seconds": time.perf_counter() - started, "gb": peak_gb("cpu")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--size", type=int, default=448, help="pixels, a multiple of 28")
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8,int4,fp8")
    parser.add_argument("--work", type=Path, help="where to keep checkpoint and bundles")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, *rest = options.step
        answer = {"export": export, "score": score}[step](*map(Path, rest[:2]), *rest[2:])
        print(json.dumps(answer))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options.work or Path(folder), options)


def measure(work: Path, options: argparse.Namespace) -> None:
    source = work / f"{options.shape}-{options.size}"
    if not (source / "config.json").is_file():
        random_checkpoint(source, options.shape, options.size)
    stored = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 1e9
    print(
        f"{machine.describe()}; {options.shape} shape at {options.size} pixels, {stored:.1f} GB\n"
    )
    print("| | export, minutes | peak GB | files GB | largest GB | score error, mean | at most "
          "| SRCC | open and score, s | peak GB |")  # fmt: skip
    print("|---" * 10 + "|")
    for precision in options.precisions.split(","):
        output = work / f"{source.name}-{precision}"
        made = child("export", source, output, precision)
        if "refused" in made:
            print(f"| {precision} | refused: {made['refused']} |", flush=True)
            continue
        used = child("score", output)
        opened = "refused |" if "refused" in used else f"{used['seconds']:.1f} | {used['gb']:.1f}"
        sizes = [f.stat().st_size / 1e9 for f in output.iterdir() if f.name != bundle.GOLDEN]
        print(
            f"| {precision} | {made['seconds'] / 60:.1f} | {made['gb']:.1f} | {sum(sizes):.2f} "
            f"| {max(sizes):.2f} | {made['mean_score_error']:.2g} | {made['max_score_error']:.2g} "
            f"| {made['srcc']:.4f} | {opened} |",
            flush=True,
        )


def child(step: str, *arguments: object) -> Any:
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
