"""One picture of a run: the loss, the validation, and predicted against human scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .metrics import plcc, srcc

_CURVES = {
    "loss": "training loss",
    "eval_score_loss": "validation loss",
    "eval_text_loss": "validation loss of texts",
}


def write_report(
    path: Path,
    history: Sequence[dict[str, Any]],
    predicted: npt.ArrayLike | None = None,
    human: npt.ArrayLike | None = None,
) -> None:
    """Write a PNG. ``history`` is the Trainer's log; ``predicted`` and ``human`` (N,) 0..100."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12 if predicted is not None else 6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no global state, no display
    axes = figure.subplots(1, 2 if predicted is not None else 1, squeeze=False)[0]
    for key, label in _CURVES.items():
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=label, marker="." * (key != "loss"))
    axes[0].set(xlabel="optimiser step", ylabel="cross-entropy (nats a token)", title="Loss")
    axes[0].legend()
    if predicted is not None and human is not None:
        x, y = np.asarray(human), np.asarray(predicted)
        axes[1].plot([0, 100], [0, 100], color="0.8", zorder=0)
        axes[1].scatter(x, y, s=8, alpha=0.5)
        title = f"Validation, n {len(x)}: SRCC {srcc(y, x):.3f}, PLCC {plcc(y, x):.3f}"
        axes[1].set(xlabel="people", ylabel="model", title=title, xlim=(0, 100), ylim=(0, 100))
    figure.savefig(path, dpi=120)
