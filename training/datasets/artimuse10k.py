"""ArtiMuse-10K: images of 15 categories with experts' critiques of the eight attributes.

``score/{train,test}.json`` hold ``image`` and ``gt_score`` (0..100); ``text/{train,test}.jsonl``
one conversation an image and attribute: the question names the attribute, the answer is the
critique. Images lie in ``images/``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ...artimuse_core.attributes import attribute
from ...artimuse_core.errors import UsageError
from . import reference
from .base import PERCENT, Sample, json_lines, refuse, relative

# The published questions spell "aspect" in two ways.
QUESTION = re.compile(r"\b(?:aspect|aespect|attribute) of\s+(?P<name>[^\n]+?)\s*\.?\s*$", re.I)


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the data set's folder, or one with ``test.json`` and ``images/``, or that file."""
    if root.is_file():
        return reference.read_test(root, images or root.parent / "images", PERCENT)
    images = images or root / "images"
    scores: dict[Path, Sample] = {}
    texts: dict[Path, dict[str, str]] = defaultdict(dict)
    for split in ("train", "test"):
        for file in (root / "score" / f"{split}.json", root / f"{split}.json"):
            if file.is_file():
                read_scores = reference.read_test(file, images, PERCENT)
                scores |= {s.image: Sample(s.image, s.score, split=split) for s in read_scores}
        file = root / "text" / f"{split}.jsonl"
        if file.is_file():
            for image, name, critique in _critiques(file, images):
                texts[image][name] = critique
                scores.setdefault(image, Sample(image, split=split))
    if not scores:
        raise UsageError(f"no ArtiMuse-10K in {root}: expected score/, text/ or test.json")
    return [Sample(s.image, s.score, texts=texts[s.image], split=s.split) for s in scores.values()]


def _critiques(file: Path, images: Path) -> list[tuple[Path, str, str]]:
    found = []
    for line, row in json_lines(file):
        try:
            found.append(_critique(row, images))
        except (ValueError, UsageError) as error:
            refuse(file, line, error)
    return found


def _critique(row: dict[str, Any], images: Path) -> tuple[Path, str, str]:
    turns = row.get("conversations")
    if not isinstance(row.get("image"), str) or not isinstance(turns, list) or len(turns) != 2:
        raise ValueError("expected an image and a conversation of question and answer")
    question, answer = (turn.get("value") if isinstance(turn, dict) else None for turn in turns)
    match = QUESTION.search(question or "")
    if match is None or not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"expected a question about an attribute and its answer, got {question!r}")
    return images / relative(row["image"]), attribute(match["name"]).name, answer.strip()
