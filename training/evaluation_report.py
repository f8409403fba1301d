"""Evaluations as Markdown, JSON, CSV and a scatter plot; the paper's figures beside ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from . import metrics, paper_tables
from .evaluate import Evaluation, Figures
from .markdown import markdown_table

LARGEST_GRID = 36
"""Panels in one plot; of more, the first are drawn."""


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """A table of figures, then what the groups have, then Table 13 beside what it can be beside."""
    head = ["model", "data", "n", "SRCC (95%)", "PLCC (95%)", "Kendall τ", "fitted PLCC", "RMSE"]
    rows = [[e.model, e.dataset, *_cells(e.figures)] for e in evaluations]
    parts = [markdown_table(head, rows)]
    for e in evaluations:
        if e.groups:
            rows = [[name, *_cells(figures)] for name, figures in e.groups.items()]
            parts.append(
                f"{e.model} on {e.dataset}, by group:\n\n"
                + markdown_table(["group", *head[2:]], rows)
            )
    if any(paper_tables.printed(_row(e.model), e.dataset) for e in evaluations):
        parts.append(matrix(evaluations))
    units = sorted({e.resampled for e in evaluations})
    parts.append(
        f"Intervals are bootstrapped over every {' or '.join(units)}. RMSE, in points of 100, and "
        "the fitted PLCC are after VQEG's logistic of four parameters."
    )
    lost = [line for e in evaluations for line in _lost(e)]
    return "\n\n".join([*parts, *lost]) + "\n"


def matrix(evaluations: Sequence[Evaluation]) -> str:
    """Ours against Table 13, SRCC / PLCC, ours first."""
    datasets = list(dict.fromkeys(e.dataset for e in evaluations))
    rows, doubted = [], False
    for model in dict.fromkeys(e.model for e in evaluations):
        ours, theirs = [model], [f"paper: {_row(model)}"]
        for dataset in datasets:
            found = [e.figures for e in evaluations if (e.model, e.dataset) == (model, dataset)]
            ours.append(f"{found[0].srcc:.3f} / {found[0].plcc:.3f}" if found else "–")
            cell = paper_tables.printed(_row(model), dataset)
            mark = "†" if paper_tables.doubtful(_row(model), dataset) else ""
            doubted |= bool(mark)
            theirs.append(f"{cell[0]:.3f} / {cell[1]:.3f}{mark}" if cell else "–")
        rows.append(ours)
        if _row(model) in paper_tables.TABLE_13:
            rows.append(theirs)
    names = [paper_tables.NAMES.get(dataset, dataset) for dataset in datasets]
    note = (
        "\n\n† repeats another cell of its row in the paper to the last digit." if doubted else ""
    )
    return (
        "SRCC / PLCC beside the paper's Table 13:\n\n" + markdown_table(["", *names], rows) + note
    )


def write(evaluations: Sequence[Evaluation], directory: Path) -> list[Path]:
    """``evaluation.json``, ``evaluation.md`` and ``scatter.png``."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in ("evaluation.json", "evaluation.md", "scatter.png")]
    rows = [e.as_dict() for e in evaluations]
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text(markdown(evaluations), encoding="utf-8")
    scatter(evaluations).savefig(paths[2], dpi=130)
    return paths


def scatter(evaluations: Sequence[Evaluation]) -> Figure:
    """A panel for each evaluation: people against the model, with the logistic that was fitted."""
    shown = list(evaluations)[:LARGEST_GRID]
    columns = min(len(shown), max(len({e.dataset for e in shown}), 1), 6)
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 4 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for panel, e in zip(panels, shown, strict=False):
        predicted = np.array([p.predicted for p in e.predictions])
        human = np.array([p.human for p in e.predictions])
        # Many points overlap: fainter the more there are.
        alpha = float(np.clip(200 / len(human), 0.08, 0.6))
        panel.scatter(predicted, human, s=9, alpha=alpha, linewidths=0, color="#2a6f97")
        fitted = metrics.logistic_fit(predicted, human)
        if fitted is not None:
            order = np.argsort(predicted)
            panel.plot(predicted[order], fitted[order], color="#c1121f", linewidth=1.5)
        panel.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, linestyle=":")
        panel.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        panel.set(xlabel="model", ylabel="people")
        f = e.figures
        panel.set_title(
            f"{e.model} on {e.dataset}\nSRCC {f.srcc:.3f}  PLCC {f.plcc:.3f}  n {f.n}", fontsize=9
        )
    for panel in panels:
        panel.set_axis_off()
    return figure


def _row(model: str) -> str:
    return paper_tables.ROWS.get(model, "")


def _cells(f: Figures | None) -> list[str]:
    if f is None:
        return ["too few", *[""] * 5]
    return [
        f"{f.n:,}",
        f"{f.srcc:.3f} ({f.srcc_interval[0]:.3f} to {f.srcc_interval[1]:.3f})",
        f"{f.plcc:.3f} ({f.plcc_interval[0]:.3f} to {f.plcc_interval[1]:.3f})",
        f"{f.kendall:.3f}",
        "–" if f.plcc_fitted is None else f"{f.plcc_fitted:.3f}",
        "–" if f.rmse is None else f"{f.rmse:.2f}",
    ]


def _lost(e: Evaluation) -> list[str]:
    lines = []
    if e.missing:
        lines.append(f"{e.dataset}: images missing: {len(e.missing)}, listed in the JSON.")
    if e.failed:
        lines.append(f"{e.model} on {e.dataset}: images that could not be scored: {len(e.failed)}.")
    return lines
