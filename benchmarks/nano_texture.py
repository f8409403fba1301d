"""How far texture alone goes: nano's teacher, on prompts it has not seen.

A dictionary of small patches learnt without ratings, patterns of the finest detail, and kernel
regression on both (training/texture.py): on the test part, and on every prompt in turn, learnt from
the other four fifths, or from more (--folds). Takes five minutes or more on two cores.

    python benchmarks/nano_texture.py --data AGIQA-3K-FOLDER [--floor 0 --atoms 256 256 256 256]
    python benchmarks/nano_texture.py --data … --group-width 0 --ridge 0.005
    python benchmarks/nano_texture.py --data … --strides 32 16 8 4 --atoms 96 32 24 8
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from nano_quality import print_agreement

from artimuse.training import nano, texture
from artimuse.training.datasets import agiqa3k
from artimuse.training.metrics import agreement

import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    usual = texture.TextureRecipe()
    parser.add_argument("--atoms", type=int, nargs=4, default=usual.atoms, help="at each scale")
    parser.add_argument("--strides", type=int, nargs=4, default=usual.strides, help="at each scale")
    parser.add_argument(
        "--floor", type=float, default=usual.floor,
        help="added to averages before their logarithm; 0 for averages as they are",
    )  # fmt: skip
    parser.add_argument(
        "--ridge", type=float, default=usual.ridge, help="how far ratings are doubted"
    )
    parser.add_argument(
        "--group-width", type=float, default=usual.group_width,
        help="of the kernel over what is told of generators; 0: they are not told",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, default=5, help="that all prompts are cut into")
    options = parser.parse_args()
    parts = agiqa3k.split(agiqa3k.load(options.data))
    learnt, held = [*parts["train"], *parts["validation"]], parts["test"]
    recipe = replace(
        usual,
        atoms=tuple(options.atoms),
        strides=tuple(options.strides),
        floor=options.floor or None,
        ridge=options.ridge,
        group_width=options.group_width or None,
    )
    everyone = [*learnt, *held]
    pool = nano.load_pool(everyone, 0, torch.device("cpu"))
    known = len(learnt)
    features = texture.look(pool.images, texture.learn_atoms(pool.images[:known], recipe))
    labels = nano.labels_of(everyone)
    learns = labels.of(torch.arange(len(everyone)) < known)
    said = texture.regression(features[:known], learns, recipe)(features[known:])
    print(f"{machine.describe()}\n\nThe test part:\n")
    report(said, held)
    turns = replace(recipe, folds=options.folds, rounds=1)
    print("\nEvery prompt in turn:\n")
    report(texture.out_of_fold(features, labels, turns), everyone)


def report(said: torch.Tensor, ratings: list[agiqa3k.Rating]) -> None:
    figures = agreement(said.numpy(), ratings)
    print(f"{figures.n} images of prompts it had not seen\n")
    print_agreement(figures)


if __name__ == "__main__":
    main()
