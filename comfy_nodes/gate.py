"""The node "ArtiMuse Gate"."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

from .batches import blocked, check_scores
from .schema import check_option, describe, first, validate_options

JUDGES: dict[str, Callable[[Sequence[float]], float]] = {
    "best": max,
    "mean": statistics.fmean,
    "worst": min,
}


class ArtiMuseGate(io.ComfyNode):
    """A score and two branches → the one the score calls for; the other is never computed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseGate",
            display_name="ArtiMuse Gate",
            description="Passes on what is wired to `passed` if the score clears the bar, else "
            "what is wired to `failed`. The branch not taken is not computed.",
            search_aliases=["switch", "if", "threshold", "stop"],
            inputs=[
                io.Float.Input(
                    "score", force_input=True, tooltip="From ArtiMuse Score: one, or all of a run."
                ),
                io.Float.Input(
                    "threshold",
                    default=50.0,
                    min=0.0,
                    max=100.0,
                    step=1.0,
                    tooltip="The bar, in score points; a score equal to it passes.",
                ),
                io.Combo.Input(
                    "judge_by",
                    options=list(JUDGES),
                    default="best",
                    tooltip="Which of several scores counts. The branches pass as a whole; "
                    "ArtiMuse Select filters single images.",
                ),
                io.AnyType.Input(
                    "passed", lazy=True, tooltip="Computed and passed on if the bar is cleared."
                ),
                io.AnyType.Input(
                    "failed",
                    optional=True,
                    lazy=True,
                    tooltip="Computed and passed on otherwise. Not wired: nothing behind runs.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    "output",
                    display_name="output",
                    tooltip="Of the branch taken.",
                    is_output_list=True,
                ),
                io.Boolean.Output(
                    "cleared", display_name="cleared", tooltip="Whether the score clears the bar."
                ),
            ],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, judge_by: Any = None) -> bool | str:
        return validate_options(judge_by=(judge_by, tuple(JUDGES)))

    @classmethod
    def check_lazy_status(
        cls,
        score: Sequence[float],
        threshold: Sequence[float],
        judge_by: Sequence[str],
        passed: Any = None,
        failed: Any = None,
    ) -> list[str]:
        """The branch to compute. ComfyUI asks once ``score`` is there; a branch it has not computed
        is ``(None,)``, and one that is not wired is absent."""
        branches = {"passed": passed, "failed": failed}
        taken = "passed" if _clears(score, threshold, judge_by) else "failed"
        branch = branches[taken]
        waiting = branch is not None and len(branch) == 1 and branch[0] is None
        return [taken] if waiting else []

    @classmethod
    def execute(
        cls,
        score: list[float],
        threshold: list[float],
        judge_by: list[str],
        passed: list[Any] | None = None,
        failed: list[Any] | None = None,
    ) -> io.NodeOutput:
        cleared = _clears(score, threshold, judge_by)
        branch = passed if cleared else failed
        return io.NodeOutput(blocked() if branch is None else list(branch), cleared)


def _clears(score: Sequence[float], threshold: Sequence[float], judge_by: Sequence[str]) -> bool:
    judge = JUDGES[check_option("judge_by", judge_by, tuple(JUDGES))]
    numbers = check_scores("score", score, len(score))
    return judge(numbers) >= float(first(threshold))
