"""What the score stage does to texts: LoRA or full fine-tune (paper Sec. 4.3, Table 4 (d)).

    python benchmarks/training_text.py --data data/agiqa3k --output build/strategies

Base and recipe are those of benchmarks/training_strategies.py, whose OUTPUT it shares. First the
random language model learns critiques of pictures that code drew and described and, as InternVL's
can before any of this, to answer the score question with a number, here with ratings dealt out at
random. Then the score stage, once a row, on AGIQA-3K's true ratings, while the loss of critiques of
100 unseen pictures is watched. The tower is frozen throughout; with the language model frozen too,
a row shows what the projector alone does to texts.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from artimuse.training.arguments import stage_config
from artimuse.training.datasets.described import write
from artimuse.training.stages import Data, run_stage

import machine
from training_strategies import ALIKE, small_copy, start

DESCRIBED = 3000
"""Pictures of the text stage."""
ROWS: dict[str, dict[str, Any]] = {
    "LoRA (the paper's), 1e-3": {"llm": "lora", "lora_rank": 16},
    "full fine-tune, (d), 1e-3": {"llm": "full"},
    "frozen, 1e-3": {"llm": "frozen"},
    "LoRA (the paper's), 3e-4": {"llm": "lora", "lora_rank": 16, "learning_rate": 3e-4},
    "full fine-tune, (d), 3e-4": {"llm": "full", "learning_rate": 3e-4},
}
"""The language model in the score stage, and the learning rate."""


def speaking_base(output: Path, ratings: Path) -> Path:
    """Writes critiques, and answers the score question with numbers that mean nothing."""
    described = output / "described" / "described.jsonl"
    if not described.is_file():
        write(described.parent, range(DESCRIBED))
    rows = [json.loads(line) for line in ratings.read_text("utf-8").splitlines()]
    dealt = np.random.default_rng(0).permutation([row["score"] for row in rows])
    shuffled = ratings.with_name("shuffled.jsonl")
    lines = [json.dumps(row | {"score": score}) for row, score in zip(rows, dealt, strict=True)]
    shuffled.write_text("\n".join(lines), encoding="utf-8")
    config = stage_config("score", None, ALIKE | {"joint": True, "epochs": 1})
    data = Data([str(shuffled)], texts=[str(described)])
    run_stage(start(output), data, output / "speaking", config, device="cpu", resume=True)
    return output / "speaking"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument("--output", type=Path, default=Path("build/strategies"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ratings = small_copy(options.data, options.output / "ratings")
    base = speaking_base(options.output, ratings)
    unseen = options.output / "unseen" / "described.jsonl"
    if not unseen.is_file():
        write(unseen.parent, range(DESCRIBED, DESCRIBED + 110), validation_share=100 / 110)
    file = options.output / "texts.json"
    results = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, changed in ROWS.items():
        if name not in results:
            run = options.output / f"texts_{len(results)}"
            data = Data([str(ratings)], texts=[str(unseen)])
            run_stage(base, data, run, stage_config("score", None, ALIKE | changed), device="cpu",
                      resume=True)  # fmt: skip
            history = json.loads((run / "history.json").read_text("utf-8"))
            losses = [row["eval_text_loss"] for row in history if "eval_text_loss" in row]
            srcc = [row["eval_score_srcc"] for row in history if "eval_score_srcc" in row]
            results[name] = {"losses": losses, "srcc": srcc}
            file.write_text(json.dumps(results, indent=1), encoding="utf-8")
            shutil.rmtree(run)
    print(machine.describe())
    print("| language model | loss of texts before | after | validation SRCC |")
    print("|---|---|---|---|")
    for name, row in results.items():
        before, after = row["losses"][0], row["losses"][-1]
        print(f"| {name} | {before:.3f} | {after:.3f} | {row['srcc'][-1]:.3f} |")


if __name__ == "__main__":
    main()
