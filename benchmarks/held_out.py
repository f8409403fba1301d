"""What nano is measured on: prompts that it did not learn from.

The weights that ship know every prompt that was at hand. Those in ``nano_held_out``, made by the
same recipe, have not seen a fifth of them, and on that fifth they are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from artimuse.artimuse_core.models import locate
from artimuse.training.datasets import agiqa3k

PART = "test"
MODEL = Path(__file__).parent / "nano_held_out"


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[agiqa3k.Rating]]:
    """The command line, with ``--data`` and ``--model`` besides, and what to measure it on.

    Says so where the model learnt from that.
    """
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument(
        "--model", default=MODEL, help="another bundle or checkpoint than nano_held_out"
    )
    options = parser.parse_args()
    for name in ("manifest.json", "figures.json"):
        file = locate(options.model) / name
        facts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if "AGIQA-3K" in facts.get("data", "") and PART not in facts["figures"]:
            print(f"{options.model} learnt from these prompts: they flatter it", file=sys.stderr)
            break
    return options, agiqa3k.split(agiqa3k.load(options.data))[PART]
