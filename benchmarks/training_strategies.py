"""Every score-token strategy of the paper's App. C trained alike, and the two options beyond it.

    python benchmarks/training_strategies.py --data data/agiqa3k --output build/strategies

A small model of InternVL's architecture, made here: random, but for a vision tower that starts with
filters as nano's does and stays so, since 1,461 pictures teach a random one little. Projector and
language model learn in full, as there is nothing in them to preserve. All rows go through the score
stage on AGIQA-3K, cut by prompt, with the same data and steps, and for a seed with the same base.
Results are added to OUTPUT as they come, so that a killed run goes on where it was; the Markdown
table goes to stdout.
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
from artimuse.artimuse_core.preprocess import resize
from artimuse.artimuse_core.prompts import IMG_CONTEXT
from artimuse.artimuse_core.score_tokens import FIVE_LEVELS, ORDERED_100
from artimuse.training import datasets
from artimuse.training.arguments import stage_config
from artimuse.training.datasets import agiqa3k
from artimuse.training.datasets.described import describe, scene
from artimuse.training.datasets.rendered import render
from artimuse.training.metrics import bootstrap_interval, plcc, srcc
from artimuse.training.nano import NanoShape, start_tower
from artimuse.training.stages import Data, run_stage
from artimuse.training.tokenizer import build_tokenizer, corpus, save_tokenizer

import machine

SHAPE = NanoShape(input_size=384, vision_layers=3)
ALIKE: dict[str, Any] = {
    "llm": "full", "train_vision": False, "epochs": 4, "batch_size": 32, "device_batch_size": 32,
    "learning_rate": 1e-3, "log_every": 20, "workers": 0, "tracker": "none", "save_every": 200,
    "score_question": SHAPE.score_question,
}  # fmt: skip
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


def base_model(directory: Path, seed: int = 0, shape: NanoShape = SHAPE) -> Path:
    """A random checkpoint behind nano's filters; its tokenizer holds every strategy's tokens."""
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
            if weight.ndim > 1 and "vision_tower" not in name:
                weight.normal_(std=weight[0].numel() ** -0.5)
    pictures = render(64, shape.input_size).float() / 255
    generator = torch.Generator().manual_seed(seed)
    start_tower(model.model.vision_tower, pictures, generator)
    checkpoint.save_model(directory, model, config, torch.float32)
    return directory


def start(output: Path, seed: int = 0) -> Path:
    """The base of a seed, made once."""
    directory = output / f"start{seed}"
    if not (directory / "config.json").is_file():
        base_model(directory, seed)
    return directory


def small_copy(data: Path, folder: Path) -> Path:
    """AGIQA-3K squashed to the model's input, losslessly, so that no row decodes it again."""
    file = folder / "ratings.jsonl"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for rating in agiqa3k.load(data):
            name = f"{rating.image.stem}.png"
            resize(load_image(rating.image), SHAPE.input_size).save(folder / name)
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


def table(results: dict[str, Any], seeds: int, ratings: Path) -> str:
    test = datasets.load_source(str(ratings), split="test")
    human, prompts = [r.score for r in test], [r.groups["prompt"] for r in test]
    lines = [
        "| strategy | paper | SRCC (95%) | SRCC above the first (95%) | PLCC (95%) "
        "| mean error, points | minutes |",
        "|---" * 7 + "|",
    ]
    first: list[dict[str, Any]] = []
    for name, (paper, _) in ROWS.items():
        runs = [results[key] for s in range(seeds) if (key := f"{name} seed {s}") in results]
        if runs:
            first = first or runs
            above = _above(runs, first, human, prompts)
            error = np.mean([run["error"] for run in runs])
            minutes = np.mean([run["seconds"] for run in runs]) / 60
            lines.append(
                f"| {name} | {paper} | {_cell(runs, 'srcc')} | {above} "
                f"| {_cell(runs, 'plcc')} | {error:.1f} | {minutes:.1f} |"
            )
    return "\n".join(lines)


def _above(
    runs: list[dict[str, Any]], first: list[dict[str, Any]], human: list[float], prompts: list[str]
) -> str:
    """The difference on the same images, which is known better than either figure."""
    if runs is first:
        return ""
    both = np.array([run["predicted"] for run in (*runs, *first)]).T  # (n, seeds of both)

    def difference(predicted: Any, human: Any) -> float:
        each = [srcc(column, human) for column in predicted.T]
        return float(np.mean(each[: len(runs)]) - np.mean(each[len(runs) :]))

    low, high = bootstrap_interval(difference, both, human, prompts)
    return f"{difference(both, human):+.3f} ({low:+.3f} to {high:+.3f})"


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
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.output.mkdir(parents=True, exist_ok=True)
    ratings = small_copy(options.data, options.output / "ratings")
    file = options.output / "strategies.json"
    results = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for seed in range(options.seeds):
        base = start(options.output, seed)
        for name, (_, changed) in ROWS.items():
            key = f"{name} seed {seed}"
            if key in results or (options.only and name not in options.only):
                continue
            logging.info("--- %s", key)
            run = options.output / key.replace(" ", "_").replace(",", "")
            results[key] = measure(base, ratings, run, ALIKE | changed | {"seed": seed})
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
            partial.replace(file)
            shutil.rmtree(run)
    print(machine.describe())
    print(table(results, options.seeds, ratings))


if __name__ == "__main__":
    main()
