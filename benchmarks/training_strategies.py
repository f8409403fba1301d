"""Every score-token strategy of the paper's App. C trained alike, and the two options beyond it.

    python benchmarks/training_strategies.py --data data/agiqa3k --output build/strategies

A small model of InternVL's architecture (made here: nano's vision tower, which never saw the test
prompts, before a random language model; with --base random, all of it random) runs through the
score stage on AGIQA-3K, cut by prompt; the same base, seed, data and steps for every row. Results
are added to OUTPUT as they come, so that a killed run goes on where it was; the Markdown table goes
to stdout. Takes a minute or two a row on one idle CPU core.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artimuse import Scorer
from artimuse.artimuse_core import checkpoint
from artimuse.artimuse_core.images import load_image
from artimuse.artimuse_core.models import locate
from artimuse.artimuse_core.pictures import render_pictures
from artimuse.artimuse_core.preprocess import preprocess_batch, resize
from artimuse.artimuse_core.prompts import IMG_CONTEXT
from artimuse.artimuse_core.score_tokens import FIVE_LEVELS, ORDERED_100
from artimuse.training import datasets
from artimuse.training.arguments import stage_config
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.described import describe, scene
from artimuse.training.metrics import bootstrap_interval, plcc, srcc
from artimuse.training.nano import NanoShape
from artimuse.training.patch_filters import even_out, patch_filters
from artimuse.training.stages import Data, run_stage
from artimuse.training.tokenizer import build_tokenizer, corpus, save_tokenizer

import machine

SHAPE = NanoShape(
    input_size=112, patch_size=14, vision_width=96, vision_layers=3, vision_heads=4,
    vision_mlp=288, llm_width=96, llm_layers=2, llm_heads=4, llm_mlp=192,
)  # fmt: skip
ALIKE: dict[str, Any] = {
    "epochs": 6, "batch_size": 16, "device_batch_size": 16, "learning_rate": 3e-4, "lora_rank": 32,
    "lora_dropout": 0.0, "log_every": 20, "workers": 0,
    "score_question": SHAPE.score_question, "tracker": "none", "save_every": 200,
}  # fmt: skip
SEEING: dict[str, Any] = ALIKE | {
    "llm": "full", "train_vision": False, "epochs": 4, "batch_size": 32, "device_batch_size": 32,
    "learning_rate": 1e-3,
}  # fmt: skip
"""With nano's vision tower, frozen; all else learns in full, as there is nothing to preserve."""
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "ordered-100": ("(j)", {}),
    "five-levels": ("(a)", {"score_tokens": "five-levels"}),
    "existing-25": ("(g)", {"score_tokens": "existing-25"}),
    "existing-50": ("(h)", {"score_tokens": "existing-50"}),
    "non-ordered-100": ("(i)", {"score_tokens": "non-ordered-100"}),
    "expanding-100": ("(d)", {"score_tokens": "expanding-100"}),
    "score-as-text": ("Table 4 (f)", {"score_tokens": "score-as-text"}),
    "ordered-100, soft label": ("ours", {"soft_label": True}),
    "ordered-100, ordinal 1.0": ("ours", {"ordinal": 1.0}),
    "ordered-100, soft label, ordinal 1.0": ("ours", {"soft_label": True, "ordinal": 1.0}),
}


def random_base(directory: Path, seed: int = 0, shape: NanoShape = SHAPE) -> Path:
    """A random checkpoint whose tokenizer holds the tokens of every strategy."""
    levels = " ".join(f"{level}\n" for level in FIVE_LEVELS.tokens)
    texts = [*corpus(shape.score_question, shape.system_message), *[levels] * 50]
    texts += [text for seed in range(100) for text in describe(scene(seed)).values()]
    tokenizer = build_tokenizer(texts, score_tokens=ORDERED_100)
    save_tokenizer(tokenizer, directory)
    config = shape.config(tokenizer.get_vocab_size())
    torch.manual_seed(seed)
    model = checkpoint.build_model(config, tokenizer.token_to_id(IMG_CONTEXT))
    with torch.no_grad():  # transformers' small initial weights are made for far wider models
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "position" not in name and "cls_token" not in name:
                weight.normal_(std=weight[0].numel() ** -0.5)
                if name == "lm_head.weight":  # frozen: let it tell 101 of 1,000 tokens apart
                    weight.mul_(2.5)
            elif "lambda" in name:
                weight.fill_(0.5)
        first = model.model.vision_tower.embeddings.patch_embeddings.projection.weight
        first.copy_(_filters(shape, seed))
    checkpoint.save_model(directory, model, config, torch.float32)
    return directory


def _filters(shape: NanoShape, seed: int) -> torch.Tensor:
    """Waves and edges, evened out over patches of pictures drawn by code."""
    patch = shape.patch_size
    filters = patch_filters(shape.vision_width, patch, torch.Generator().manual_seed(seed))
    pixels = torch.from_numpy(preprocess_batch(render_pictures(16), shape.input_size))
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
    return even_out(filters, patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))


def seeing_base(directory: Path, seed: int = 0) -> Path:
    """nano's vision tower, which never saw the test prompts, before a random language model."""
    random_base(directory, seed, NanoShape())
    config = checkpoint.read_config(directory)
    model, nano = (checkpoint.load_model(folder) for folder in (directory, locate("nano")))
    model.model.vision_tower.load_state_dict(nano.model.vision_tower.state_dict())
    checkpoint.save_model(directory, model, config, torch.float32)
    return directory


def small_copy(data: Path, folder: Path, size: int = SHAPE.input_size) -> Path:
    """AGIQA-3K squashed to the model's input, losslessly, so that no row decodes it again."""
    file = folder / "ratings.jsonl"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for rating in agiqa3k.load(data):
            name = f"{rating.image.stem}.png"
            resize(load_image(rating.image), size).save(folder / name)
            rows.append(rating.as_dict() | {"image": name})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def measure(base: Path, ratings: Path, output: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Train one row and score the held-out prompts with what it saved."""
    config = stage_config("score", None, fields)
    started = time.perf_counter()
    run_stage(base, Data([str(ratings)]), output, config, device="cpu", resume=True)
    trained = time.perf_counter() - started
    test = datasets.load_source(str(ratings), split="test")
    results = Scorer.load(output, "cpu").score([rating.image for rating in test])
    predicted = np.array([result.score for result in results])
    human, prompts = [r.score for r in test], [r.groups["prompt"] for r in test]
    return {
        "n": len(test),
        "srcc": srcc(predicted, human),
        "srcc_interval": bootstrap_interval(srcc, predicted, human, prompts),
        "plcc": plcc(predicted, human),
        "plcc_interval": bootstrap_interval(plcc, predicted, human, prompts),
        "error": float(np.abs(predicted - np.array(human)).mean()),
        "seconds": trained,
        "predicted": [float(score) for score in predicted],
    }


def table(results: dict[str, Any], seeds: int) -> str:
    lines = [
        "| strategy | paper | SRCC (95%) | PLCC (95%) | mean error, points | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, (paper, _) in ROWS.items():
        runs = [results[key] for s in range(seeds) if (key := f"{name} seed {s}") in results]
        if runs:
            cells = [_cell(runs, "srcc"), _cell(runs, "plcc")]
            error = np.mean([run["error"] for run in runs])
            minutes = np.mean([run["seconds"] for run in runs]) / 60
            lines.append(
                f"| {name} | {paper} | {cells[0]} | {cells[1]} | {error:.1f} | {minutes:.1f} |"
            )
    return "\n".join(lines)


def _cell(runs: list[dict[str, Any]], metric: str) -> str:
    """Mean over seeds, and of the intervals' ends."""
    low, high = np.mean([run[f"{metric}_interval"] for run in runs], axis=0)
    return f"{np.mean([run[metric] for run in runs]):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument("--output", type=Path, default=Path("build/strategies"))
    parser.add_argument("--seeds", type=int, default=1, help="runs a row; more say more")
    parser.add_argument("--only", nargs="*", help="these rows")
    parser.add_argument(
        "--base", choices=["seeing", "random"], default="seeing",
        help="nano's vision tower, frozen, before a random language model; or all of it random",
    )  # fmt: skip
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.output.mkdir(parents=True, exist_ok=True)
    random = options.base == "random"
    base = options.output / options.base
    if not (base / "config.json").is_file():
        (random_base if random else seeing_base)(base)
    size = (SHAPE if random else NanoShape()).input_size
    ratings = small_copy(options.data, options.output / f"ratings{size}", size)
    recipe = ALIKE if random else SEEING
    file = options.output / f"{options.base}.json"
    results = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for seed in range(options.seeds):
        for name, (_, changed) in ROWS.items():
            key = f"{name} seed {seed}"
            if key in results or (options.only and name not in options.only):
                continue
            logging.info("--- %s", key)
            run = options.output / f"{options.base} {key}".replace(" ", "_").replace(",", "")
            results[key] = measure(base, ratings, run, recipe | changed | {"seed": seed})
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
            partial.replace(file)
            shutil.rmtree(run)
    print(machine.describe())
    print(table(results, options.seeds))


if __name__ == "__main__":
    main()
