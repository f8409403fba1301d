"""The scoring graph against the reference's way, on the same random weights and images, in one run.

The reference's way: transformers' own forward, one image at a time, logits of the whole vocabulary
at all positions, upcast to fp32, nothing reused. Ours: prompt constants, a cached prefix, the last
positions of the last block alone, 101 rows of the head, images in batches.

    python benchmarks/score.py                                  # 1B shape on the CPU, minutes
    python benchmarks/score.py --shape 8b --device cuda --batches 1,2,4,8,16,32

Each side runs in turns in processes of its own, so that peak memory is each side's and a busy
machine slows both.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import InternVLForConditionalGeneration

from artimuse.artimuse_core import checkpoint
from artimuse.artimuse_core.critic_torch import Branches
from artimuse.artimuse_core.model import ScoringGraph

import machine

VISION = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096, "hidden_act": "gelu", "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6, "patch_size": 14, "image_size": 448, "qkv_bias": True,
    "qk_normalization": False,
}  # fmt: skip
LLM = {
    "vocab_size": 151674, "hidden_act": "silu", "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_key_value_heads": 2,
}  # fmt: skip
SHAPES = {
    "tiny": LLM | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "intermediate_size": 128, "vocab_size": 2000},
    "1b": LLM | {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                 "intermediate_size": 4864},
    "8b": LLM | {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                 "num_key_value_heads": 4, "intermediate_size": 18944},
}  # fmt: skip
# Tokens of the score prompt before and after the image, and of an attribute's question, as
# InternVL3's tokenizer counts them. Which ids they have changes neither time nor memory.
BEFORE, AFTER, QUESTION = 10, 213, 24
IMAGE_TOKEN = 1


def build(shape: str, device: str, dtype: torch.dtype) -> InternVLForConditionalGeneration:
    """The same weights on every call."""
    vision = dict(VISION)
    if shape == "tiny":
        vision |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "intermediate_size": 128}  # fmt: skip
    config = {"vision_config": vision, "llm_config": SHAPES[shape], "downsample_ratio": 0.5}
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(checkpoint.native_config(config, IMAGE_TOKEN))
    model = model.to(dtype)
    if device != "meta":
        model = model.to_empty(device=device)
        generator = torch.Generator(device).manual_seed(0)
        for name, weight in model.named_parameters():
            scale = "norm" in name or "lambda" in name
            weight.data.normal_(1 if scale else 0, 0.02, generator=generator)
        rotary = model.model.language_model.rotary_emb
        fresh = type(rotary)(config=model.config.text_config)
        model.model.language_model.rotary_emb = fresh.to(device)
    return model.eval().requires_grad_(False)


def reference(model: Any, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    image = model.config.image_seq_length
    ids = torch.tensor([[2] * BEFORE + [IMAGE_TOKEN] * image + [2] * AFTER], device=device)

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [
                model(input_ids=ids, pixel_values=one[None], use_cache=False).logits.float()[:, -1]
                for one in pixels
            ]
        )

    return score


def ours(model: Any) -> ScoringGraph:
    return ScoringGraph(model, [2] * BEFORE, [2] * AFTER, [[i] for i in range(3, 104)])


def flops_per_image(shape: str) -> dict[str, float]:
    """Counted on the meta device: shapes alone, nothing is computed."""
    model = build(shape, "meta", torch.float32)
    pixels = torch.empty(1, 3, 448, 448, device="meta")
    counted = {}
    image = model.config.image_seq_length
    tokens = torch.empty(1, BEFORE + image + AFTER, model.config.text_config.hidden_size,
                         device="meta")  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.get_image_features(pixels)
        model.lm_head(model.model.language_model(inputs_embeds=tokens).last_hidden_state)
    counted["reference"] = float(counter.get_total_flops())
    with torch.device("meta"):
        graph = ours(model).freeze(keep_text=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph(pixels)
    counted["ours"] = float(counter.get_total_flops())
    return counted


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product: the best of five."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = min(timed(lambda: a @ b, device) for _ in range(5))
    return 2 * side**3 / seconds


def timed(call: Callable[[], Any], device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Count from here: how random weights are made is no part of scoring."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss, which a child inherits
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


@torch.inference_mode()
def measure(side: str, shape: str, device: str, dtype: torch.dtype, batch: int, images: int) -> Any:
    """One side in this process: seconds an image, peak memory, score logits of the first image."""
    model = build(shape, device, dtype)
    if side == "reference":
        run = reference(model, device)
    else:
        run = ours(model).freeze(keep_text=False)
        del model
    generator = torch.Generator(device).manual_seed(1)
    pixels = torch.randn(images, 3, 448, 448, device=device, generator=generator).to(dtype)
    batches = pixels.split(batch)
    if device == "cuda":
        run(batches[0])
    forget_peak(device)
    seconds = timed(lambda: [run(part) for part in batches], device)
    logits = run(pixels[:1])[0]
    if side == "reference":
        logits = logits[3:104]
    peak = matmul_peak(device, dtype)
    return {"seconds": seconds / images, "gb": peak_gb(device), "logits": logits.float().tolist(),
            "peak": peak}  # fmt: skip


@torch.inference_mode()
def critique_prefill(shape: str, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds until the score and the first token of eight critiques: shared, then nine calls."""
    graph = ours(build(shape, device, dtype)).freeze()
    pixels = torch.randn(1, 3, 448, 448, device=device).to(dtype)
    questions = [[2] * QUESTION for _ in range(8)]

    def shared() -> None:
        cache = graph.prefill(pixels)
        graph.score_from(cache)
        Branches(graph, cache, questions).start()

    def separate() -> None:
        graph.score_from(graph.prefill(pixels))
        for question in questions:
            Branches(graph, graph.prefill(pixels), [question]).start()

    if device == "cuda":
        shared(), separate()
    return timed(shared, device), timed(separate, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="default: fp32, bf16 on cuda")
    parser.add_argument("--batches", default="4", help="ours, e.g. 1,2,4,8")
    parser.add_argument("--images", type=int, default=4, help="a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-critique", action="store_true")
    parser.add_argument("--side", choices=("reference", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    name = options.dtype or ("bf16" if options.device == "cuda" else "fp32")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    batches = [int(batch) for batch in options.batches.split(",")]
    if options.side:
        answer = measure(
            options.side, options.shape, options.device, dtype, batches[0], options.images
        )
        print(json.dumps(answer))
        return

    def child(side: str, batch: int, images: int) -> Any:
        command = [sys.executable, __file__, "--side", side, "--shape", options.shape,
                   "--device", options.device, "--dtype", name,
                   "--batches", str(batch), "--images", str(images)]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    flops = flops_per_image(options.shape)
    gpu = f", {torch.cuda.get_device_name()}" if options.device == "cuda" else ""
    image = 256
    print(f"{machine.describe()}{gpu}; torch {torch.__version__}; {options.shape} shape, random "
          f"weights, {name}; {BEFORE} + {image} + {AFTER} tokens an image\n")  # fmt: skip
    print("| | s an image | images/s | TFLOP an image | share of the matmul peak | peak GB |")
    print("|---|---|---|---|---|---|")
    rounds: dict[str, list[Any]] = {"reference": []} | {f"ours, batch {b}": [] for b in batches}
    for _ in range(options.rounds):
        rounds["reference"].append(child("reference", 1, options.images))
        for batch in batches:
            rounds[f"ours, batch {batch}"].append(child("ours", batch, max(batch, options.images)))
    for label, runs in rounds.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        work = flops["reference" if label == "reference" else "ours"]
        # A reference that computes less per second cannot be told from a busy machine otherwise.
        share = statistics.median(work / run["seconds"] / run["peak"] for run in runs)
        print(f"| {label} | {seconds:.3g} | {1 / seconds:.3g} | {work / 1e12:.2f} | {share:.0%} "
              f"| {max(run['gb'] for run in runs):.2f} |")  # fmt: skip
    theirs = rounds["reference"]
    for label, runs in list(rounds.items())[1:]:
        speed = statistics.median(
            a["seconds"] / b["seconds"] for a, b in zip(theirs, runs, strict=True)
        )
        memory = max(run["gb"] for run in runs) / max(run["gb"] for run in theirs)
        error = max(abs(a - b) for a, b in zip(theirs[0]["logits"], runs[0]["logits"], strict=True))
        print(f"\n{label}: {speed:.2f} times the speed, {memory:.2f} of the memory; score logits "
              f"differ by up to {error:.1g}")  # fmt: skip
    if not options.no_critique:
        together, apart = critique_prefill(options.shape, options.device, dtype)
        print(f"\nscore and eight critiques, to each one's first token: {together:.3g} s from one "
              f"prefill, {apart:.3g} s in nine calls ({apart / together:.1f} times)")  # fmt: skip


if __name__ == "__main__":
    main()
