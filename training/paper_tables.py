"""Figures the paper prints, to stand beside ours."""

from __future__ import annotations

DATASETS = ("ava", "para", "tad66k", "flickr-aes", "artimuse10k")
"""The columns of Table 13."""

NAMES = {
    "ava": "AVA",
    "para": "PARA",
    "tad66k": "TAD66K",
    "flickr-aes": "FLICKR-AES",
    "artimuse10k": "ArtiMuse-10K",
}

Cell = tuple[float, float]
"""SRCC, PLCC."""

TABLE_13: dict[str, tuple[Cell, ...]] = {
    "Q-Align (AVA)": (
        (0.822, 0.817), (0.694, 0.711), (0.417, 0.445), (0.643, 0.664), (0.337, 0.320),
    ),
    "ArtiMuse (AVA)": (
        (0.827, 0.826), (0.697, 0.725), (0.419, 0.451), (0.647, 0.676), (0.395, 0.376),
    ),
    "Q-Align (PARA)": (
        (0.492, 0.456), (0.913, 0.888), (0.300, 0.281), (0.913, 0.888), (0.158, 0.115),
    ),
    "ArtiMuse (PARA)": (
        (0.493, 0.510), (0.936, 0.958), (0.301, 0.311), (0.936, 0.958), (0.229, 0.188),
    ),
    "Q-Align (TAD66K)": (
        (0.695, 0.699), (0.688, 0.667), (0.501, 0.531), (0.688, 0.667), (0.317, 0.304),
    ),
    "ArtiMuse (TAD66K)": (
        (0.671, 0.676), (0.719, 0.677), (0.510, 0.543), (0.719, 0.677), (0.397, 0.369),
    ),
    "Q-Align (FLICKR-AES)": (
        (0.609, 0.611), (0.836, 0.839), (0.366, 0.376), (0.798, 0.818), (0.215, 0.208),
    ),
    "ArtiMuse (FLICKR-AES)": (
        (0.581, 0.594), (0.854, 0.874), (0.379, 0.397), (0.814, 0.837), (0.294, 0.285),
    ),
    "Q-Align (ArtiMuse-10K)": (
        (0.398, 0.386), (0.346, 0.395), (0.194, 0.197), (0.137, 0.123), (0.551, 0.573),
    ),
    "ArtiMuse (ArtiMuse-10K)": (
        (0.397, 0.385), (0.446, 0.461), (0.230, 0.232), (0.349, 0.334), (0.614, 0.627),
    ),
}  # fmt: skip
"""By the model and the data set whose scores it was tuned on."""

ROWS = {
    "artimuse-ava": "ArtiMuse (AVA)",
    "artimuse-para": "ArtiMuse (PARA)",
    "artimuse-tad66k": "ArtiMuse (TAD66K)",
    "artimuse-flickr-aes": "ArtiMuse (FLICKR-AES)",
    "artimuse": "ArtiMuse (ArtiMuse-10K)",
}
"""Which row a published checkpoint's figures should repeat."""

TABLE_2: dict[str, tuple[float, ...]] = {
    "AesExpert": (0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0),
    "Qwen-2.5-VL-7B": (12.7, 19.3, 9.9, 13.7, 17.5, 17.5, 14.6, 17.5),
    "InternVL3-8B": (10.4, 16.5, 10.4, 8.5, 24.1, 24.1, 9.4, 10.8),
    "ArtiMuse": (76.9, 64.2, 79.7, 77.8, 58.5, 58.5, 75.9, 71.7),
}
"""Percent of the questions on each of the eight attributes that chose a model."""
TABLE_2_AVERAGE = {"AesExpert": 0.1, "Qwen-2.5-VL-7B": 14.3, "InternVL3-8B": 14.5, "ArtiMuse": 71.1}
"""As printed; the means of the columns above are 0.1, 15.3, 14.3 and 70.4."""
HUMAN_RATE = {"AesExpert": 1.5, "Qwen-2.5-VL-7B": 11.5, "InternVL3-8B": 19.2, "ArtiMuse": 67.8}
"""Percent of the volunteers' choices (Table 2's last row)."""


def printed(row: str, dataset: str) -> Cell | None:
    """Table 13's cell; None where it has none."""
    if row not in TABLE_13 or dataset not in DATASETS:
        return None
    return TABLE_13[row][DATASETS.index(dataset)]


def doubtful(row: str, dataset: str) -> bool:
    """Whether a cell repeats another of its row to the last digit: one of them is a slip.

    The rows tuned on PARA and TAD66K carry the same figures under PARA and FLICKR-AES; of PARA's
    own, the one under PARA is Table 3's too.
    """
    cell = printed(row, dataset)
    if cell is None or TABLE_13[row].count(cell) == 1:
        return False
    return not (dataset == "para" and row.endswith("(PARA)"))
