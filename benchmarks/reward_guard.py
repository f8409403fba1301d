"""What cheats do to the score, and whether the guard sees them.

Each probe of tests/probes.py is applied to each picture; the table says how the embedded model's
score changes, and how often the guard flags a single picture. Clean pictures give the false alarms.

    python benchmarks/reward_guard.py --images DIR    # e.g. a folder of generations
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np

from artimuse import Reward
from artimuse.artimuse_core.images import EXTENSIONS, load_image
from artimuse.artimuse_core.reward_guard import NAMES, DriftGuard

import machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from probes import PROBES, natural


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder; rendered fields if absent")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    if options.images:
        files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in EXTENSIONS)
        chosen = random.Random(0).sample(files, min(options.count, len(files)))
        pictures = [load_image(file) for file in chosen]
    else:
        pictures = natural(options.count)
    reward, guard = Reward(output="numpy"), DriftGuard()
    clean = reward(pictures)
    rows = np.stack([guard.measure(picture) for picture in pictures])
    print(f"{machine.describe()}; model {reward.scorer.name}, {len(pictures)} pictures")
    print(
        "| probe | score | score rises in | flagged, any trait | flagged, its trait | its drift |"
    )
    print("|---|---|---|---|---|---|")
    any_flag = np.mean([bool(guard.flags(row)) for row in rows])
    print(f"| none | {clean.mean():.1f} | | {any_flag:.0%} | | |")
    for name, (change, trait) in PROBES.items():
        changed = [change(picture) for picture in pictures]
        scores, measured = reward(changed), np.stack([guard.measure(c) for c in changed])
        flags, column = [guard.flags(row) for row in measured], NAMES.index(trait)
        drift = (measured[:, column].mean() - rows[:, column].mean()) / max(
            float(rows[:, column].std()), 0.02
        )
        flagged, told = np.mean([(bool(f), trait in f) for f in flags], axis=0)
        change_of_score, rises = scores.mean() - clean.mean(), (scores > clean).mean()
        print(
            f"| {name} | {change_of_score:+.1f} | {rises:.0%} | {flagged:.0%} | {told:.0%} "
            f"| {drift:+.1f} σ |"
        )


if __name__ == "__main__":
    main()
