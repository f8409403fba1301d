"""The human study (paper App. D.4): a page that asks which critique is best, and its tally.

The page holds everything, images too, and saves the answers as a JSON file that the participant
sends back. It does not know which model wrote what: that is in a key file beside it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..artimuse_core.attributes import ATTRIBUTES, attribute
from ..artimuse_core.errors import UsageError
from ..artimuse_core.images import load_image
from . import paper_tables
from .critiques import Comparison
from .markdown import markdown_table

TEMPLATE = Path(__file__).with_name("questionnaire.html")
KEY_SUFFIX = ".key.json"
EXPERIENCE = ("none", "amateur", "trained", "professional")
"""What a participant says of their practice in judging images."""
_SIDE = 900
_STRATA = 4


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the volunteers chose."""

    participants: int
    counts: Mapping[str, int]
    """Choices by model."""
    by_experience: Mapping[str, Mapping[str, int]]
    skipped: int
    """Questions without an answer."""


def choose(
    comparisons: Sequence[Comparison], count: int = 20, *, seed: int = 0
) -> list[Comparison]:
    """``count`` questions on as many images, the eight attributes in turn.

    Images are drawn from all categories and all quarters of the scores alike, as far as the
    experts' data tell. Raises UsageError if there are fewer images.
    """
    chance = random.Random(seed)
    by_image: dict[Path, dict[str, Comparison]] = {}
    for one in comparisons:
        by_image.setdefault(one.image, {})[one.attribute] = one
    if len(by_image) < count:
        raise UsageError(f"{count} questions need as many images, {len(by_image)} are compared")
    strata: dict[tuple[str, int], list[Path]] = {}
    for image, rows in by_image.items():
        strata.setdefault(_stratum(next(iter(rows.values()))), []).append(image)
    pools = [strata[key] for key in sorted(strata)]
    chance.shuffle(pools)
    for pool in pools:
        chance.shuffle(pool)
    drawn: list[Path] = []
    while len(drawn) < count:  # a round takes one image of each stratum that has one left
        drawn += [pool.pop() for pool in pools if pool][: count - len(drawn)]
    wanted = [a.name for a in ATTRIBUTES] * (count // len(ATTRIBUTES) + 1)
    chance.shuffle(drawn)
    return [_about(by_image[image], name) for image, name in zip(drawn, wanted, strict=False)]


def _stratum(one: Comparison) -> tuple[str, int]:
    if one.sample is None:
        return "", 0
    score = one.sample.score or 0
    return one.sample.groups.get("category", ""), min(int(score / 100 * _STRATA), _STRATA - 1)


def _about(rows: Mapping[str, Comparison], wanted: str) -> Comparison:
    """The comparison on the attribute whose turn it is, or another if it has none on that."""
    return rows.get(wanted) or next(iter(rows.values()))


def build(chosen: Sequence[Comparison], page: Path, *, title: str, seed: int = 0) -> Path:
    """Write the page and, beside it, the key; returns the key's path.

    Raises UsageError if the page exists: its key could no longer be told from another's.
    """
    if page.exists():
        raise UsageError(f"{page} exists already; answers to it would not fit a new key")
    questions, key = [], []
    for one in chosen:
        order = list(one.critiques)
        random.Random(f"{seed}:{one.image}:{one.attribute}").shuffle(order)
        key.append({"image": str(one.image), "attribute": one.attribute, "order": order})
        about = attribute(one.attribute)
        questions.append(
            {
                "image": _data_url(one.image),
                "attribute": about.name,
                "description": about.description,
                "critiques": [one.critiques[name] for name in order],
            }
        )
    digest = hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16]
    study = {"study": digest, "title": title, "questions": questions}
    # "<" must not end the script element early, whatever a model wrote.
    data = json.dumps(study, ensure_ascii=False).replace("<", "\\u003c")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(TEMPLATE.read_text("utf-8").replace("/*STUDY*/", data), encoding="utf-8")
    key_file = page.with_name(page.stem + KEY_SUFFIX)
    text = json.dumps({"study": digest, "questions": key}, indent=1, ensure_ascii=False)
    key_file.write_text(text + "\n", encoding="utf-8")
    return key_file


def _data_url(path: Path) -> str:
    image = load_image(path)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def tally(key_file: Path, answer_files: Sequence[Path]) -> Preferences:
    """Count saved answers. Raises UsageError for a file of another study, or one counted twice."""
    key = _json(key_file)
    orders = [question["order"] for question in key.get("questions", [])]
    if not orders:
        raise UsageError(f"{key_file} is no key of a questionnaire")
    names = sorted({name for order in orders for name in order})
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    by_experience: dict[str, Counter[str]] = {}
    seen: dict[str, Path] = {}
    skipped = 0
    for file in answer_files:
        answers = _checked(file, key["study"], orders)
        if answers["id"] in seen:
            raise UsageError(f"{file} holds the same answers as {seen[answers['id']]}")
        seen[answers["id"]] = file
        group = by_experience.setdefault(answers["experience"], Counter(dict.fromkeys(names, 0)))
        for choice, order in zip(answers["choices"], orders, strict=True):
            if choice is None:
                skipped += 1
            else:
                counts[order[choice]] += 1
                group[order[choice]] += 1
    ordered = {name: by_experience[name] for name in EXPERIENCE if name in by_experience}
    return Preferences(len(seen), counts, ordered, skipped)


def _checked(file: Path, study: str, orders: Sequence[Sequence[str]]) -> dict[str, Any]:
    answers = _json(file)
    if answers.get("study") != study:
        raise UsageError(f"{file}: answers to another questionnaire than the key's")
    choices = answers.get("choices")
    if not isinstance(choices, list) or len(choices) != len(orders):
        raise UsageError(f"{file}: expected {len(orders)} choices, got {choices!r:.60}")
    for number, (choice, order) in enumerate(zip(choices, orders, strict=True), start=1):
        if choice is not None and choice not in range(len(order)):
            raise UsageError(f"{file}: question {number}: {choice!r} is none of its answers")
    if not isinstance(answers.get("id"), str) or answers.get("experience") not in EXPERIENCE:
        raise UsageError(f"{file}: expected id and experience ({', '.join(EXPERIENCE)})")
    return answers


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file}: expected a JSON object")
    return found


def markdown(found: Preferences) -> str:
    """The Human Rate of Table 2, for all participants and by their experience."""
    names = sorted(found.counts, key=lambda name: -found.counts[name])
    rows = [["everybody", str(found.participants), *_shares(found.counts, names)]]
    for experience, counts in found.by_experience.items():
        rows.append([experience, "", *_shares(counts, names)])
    known = [name for name in names if name in paper_tables.HUMAN_RATE]
    if known:
        rates = [f"{paper_tables.HUMAN_RATE[n]:.1f}%" if n in known else "–" for n in names]
        rows.append(["paper: Human Rate", "20", *rates])
    table = markdown_table(["experience", "people", *names], rows)
    return table + (f"\n\nQuestions left out: {found.skipped}." if found.skipped else "") + "\n"


def _shares(counts: Mapping[str, int], names: Sequence[str]) -> list[str]:
    total = sum(counts.values())
    return [f"{100 * counts[name] / total:.1f}%" if total else "–" for name in names]
