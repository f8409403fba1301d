"""How often the embedded model's words are right: what its critiques say, and what can be measured.

On pictures of prompts that it was never trained on (see `held_out.py`); beside it, how often the
commonest word would be right. Takes a few minutes on two cores.

    python benchmarks/nano_words.py --data AGIQA-3K-FOLDER [--model DIR]
"""

from __future__ import annotations

import argparse
import re
from collections import Counter

import numpy as np
import torch

from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.critic import Critic
from artimuse.artimuse_core.models import locate
from artimuse.training import nano
from artimuse.training.descriptions import describe, facts

import held_out
import machine

SAID = {
    "exposure": r"exposure is ([\w ]+)\. The detail",
    "contrast": r"contrast is (\w+)",
    "colour": r"colours are (\w+) and",
    "warmth": r"colours are \w+ and (\w+)",
    "sharpness": r"detail is (\w+)",
    "grain": r"detail is \w+( with visible grain)?\.",
    "clutter": r"space is (\w+)",
    "symmetry": r"layout is ([\w ]+)\.",
    "subject": r"subject ([\w ]+)\. It draws",
}
"""Words of ``training/descriptions.py``, by what they are about."""
OF = "composition_design", "visual_elements_structure", "technical_execution", "theme_communication"
ASKED = [attribute for attribute in ATTRIBUTES if attribute.key in OF]
"""Where they are said."""


def words(texts: dict[str, str]) -> list[str]:
    """For each of ``SAID``; empty where nothing is said of it."""
    text = " ".join(texts[attribute.name] for attribute in ASKED)
    found = (re.search(pattern, text) for pattern in SAID.values())
    return [match[1] or "" if match else "" for match in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    options, held = held_out.parse(parser)
    critic = Critic.load(locate(options.model), device="cpu")
    pictures = nano.load_pool(held, 0, torch.device("cpu")).images
    measured = [seen for some in pictures.split(32) for seen in facts(some.float() / 255)]
    true = np.array([words(describe(seen, score=0.0)) for seen in measured])
    said = np.array([words(critic.critique(rating.image, ASKED).texts) for rating in held])
    print(f"{machine.describe()}; {critic.card}\n")
    print(f"{len(held)} images of prompts never trained on:\n")
    print("| about | right word | the commonest word would be |\n|---|---|---|")
    for about, truth, word in zip(SAID, true.T, said.T, strict=True):
        commonest = Counter(truth.tolist()).most_common(1)[0][1] / len(truth)
        print(f"| {about} | {np.mean(truth == word):.0%} | {commonest:.0%} |")


if __name__ == "__main__":
    main()
