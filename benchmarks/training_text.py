"""What the score stage does to texts: LoRA or full fine-tune (paper Sec. 4.3, Table 4 (d)).

    python benchmarks/training_text.py --data data/agiqa3k --output build/strategies

Base and recipe are those of benchmarks/training_strategies.py, whose OUTPUT it shares. Text stage:
the random language model learns critiques of pictures that code drew and described. Score stage,
once a row: AGIQA-3K, while the loss of critiques of 100 unseen pictures is watched. The tower is
frozen in all; with the language model frozen, it shows what the projector alone does to texts.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from artimuse.training.arguments import stage_config
from artimuse.training.datasets.described import write
from artimuse.training.stages import Data, run_stage

import machine
from training_strategies import ALIKE, small_copy, start

DESCRIBED = 3000
"""Pictures of the text stage."""
TEXT = {
    "llm": "full", "train_vision": False, "epochs": 1, "batch_size": 32, "device_batch_size": 32,
    "learning_rate": 1e-3, "workers": 0, "tracker": "none", "save_every": 100, "log_every": 20,
}  # fmt: skip
LORA = {"llm": "lora", "lora_rank": 16}
FULL = {"llm": "full"}
ROWS: dict[str, dict[str, Any]] = {
    "LoRA (the paper's), 1e-3": LORA,
    "LoRA (the paper's), 1e-4": LORA | {"learning_rate": 1e-4},
    "full fine-tune, (d), 1e-3": FULL,
    "full fine-tune, (d), 1e-4": FULL | {"learning_rate": 1e-4},
    "frozen, 1e-3": {"llm": "frozen"},
}
"""The language model in the score stage, and the learning rate."""


def pretrained_base(output: Path) -> Path:
    """The base after the text stage, in full, on pictures that code drew and described."""
    described = output / "described" / "described.jsonl"
    if not described.is_file():
        write(described.parent, range(DESCRIBED))
    texts = Data([str(described)])
    config = stage_config("text", None, TEXT)
    run_stage(start(output), texts, output / "described_base", config, device="cpu", resume=True)
    return output / "described_base"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument("--output", type=Path, default=Path("build/strategies"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    base = pretrained_base(options.output)
    ratings = small_copy(options.data, options.output / "ratings")
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
