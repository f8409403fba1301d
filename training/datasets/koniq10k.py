"""KonIQ-10k: photographs with technical quality scores, on two scales under one name.

In ``koniq10k_distributions_sets.csv`` MOS is the rescaled one (0..100), but SD is of the votes
1..5. In ``koniq10k_scores_and_distributions.csv`` MOS is of the votes 1..5 and MOS_zscore the
rescaled one. Another table in circulation has no header: name, five counts, MOS of 1..5.
``koniq10k_indicators.csv``, if it is there, has the indicators that Type 2 prompts quote.
"""

from __future__ import annotations

from pathlib import Path

from .base import (
    PERCENT,
    Row,
    Sample,
    Scale,
    csv_rows,
    existing,
    number,
    opinion,
    parse,
    read_text,
    relative,
)  # fmt: skip

VOTE_SCALE = Scale(1, 5)
VOTES = [f"c{vote}" for vote in range(1, 6)]
FILES = ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
INDICATORS = "koniq10k_indicators.csv"
QUOTED = ["brightness", "contrast", "colorfulness", "sharpness"]
PARTS = {"training": "train", "validation": "validation", "test": "test"}
HEADERLESS = ["image_name", *VOTES, "mean"]


def read(root: Path, images: Path | None = None) -> list[Sample]:
    """``root``: the folder with the tables and ``1024x768/``, or a table."""
    file = root if root.is_file() else existing(root, *FILES, what="KonIQ-10k labels")
    images = images or file.parent / "1024x768"
    indicators = _indicators(file.parent / INDICATORS)

    def sample(row: Row) -> Sample:
        name = row["image_name"]
        votes_mean, std = opinion([number(row, vote) for vote in VOTES], range(1, 6))
        if "SD" in row:
            std = number(row, "SD")
        score, own_mean = _score(row, votes_mean)
        if abs(own_mean - votes_mean) > 0.01:
            raise ValueError(f"the votes' mean is {votes_mean:.3f}, but the table says {own_mean}")
        return Sample(
            image=images / relative(name),
            score=score,
            std=VOTE_SCALE.spread(std),
            comments=indicators.get(name, {}),
            split=PARTS[row["set"]] if row.get("set") in PARTS else None,
        )

    return parse(file, csv_rows(file, ["image_name", *VOTES], header=_header(file)), sample)


def _header(file: Path) -> list[str] | None:
    return None if read_text(file).startswith("image_name") else HEADERLESS


def _score(row: Row, votes_mean: float) -> tuple[float, float]:
    """The score, 0..100, and the mean vote as the table has it."""
    if "MOS_zscore" in row:
        return PERCENT.normalise(number(row, "MOS_zscore")), number(row, "MOS")
    if "set" in row:
        return PERCENT.normalise(number(row, "MOS")), votes_mean
    if "mean" in row:
        mean = number(row, "mean")
        return VOTE_SCALE.normalise(mean), mean
    raise ValueError(f"cannot tell the scale: expected MOS_zscore or set, got {', '.join(row)}")


def _indicators(file: Path) -> dict[str, dict[str, str]]:
    if not file.is_file():
        return {}
    rows = csv_rows(file, ["image_name", *QUOTED])
    return {row["image_name"]: {name: row[name] for name in QUOTED} for _, row in rows}
