"""transformers' Trainer with our loss, our validation, and checkpoints of what learns alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.score_tokens import ScoreTokens
from .learning import learning
from .losses import ScoreLoss, answer_loss
from .metrics import plcc, srcc

_log = logging.getLogger(__name__)

_WEIGHTS = "learning.safetensors"
_WHOLE = "whole"
"""Written last into a checkpoint: a run may be killed while it writes one."""


class StageTrainer(Trainer):
    """One stage over a native InternVL model; batches are :class:`.collate.Collator`'s."""

    def __init__(
        self,
        *args: Any,
        score_loss: ScoreLoss | None,
        graph: ScoringGraph | None = None,
        epochs: int = 1,
        **kwargs: Any,
    ) -> None:
        """``graph``: over the same model, weighs answers of several tokens in validation."""
        super().__init__(*args, **kwargs)
        self._score_loss, self._graph, self._epochs = score_loss, graph, epochs

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        """:class:`.collate.Run` is shuffled already."""
        return SequentialSampler(self.train_dataset)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        if "epoch" in self.state.log_history[-1]:  # to the library, all epochs are one
            self.state.log_history[-1]["epoch"] *= self._epochs

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        labels = inputs["labels"]
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            logits_to_keep=labels.shape[1],
        ).logits
        loss = answer_loss(
            logits,
            labels,
            score=inputs["score"],
            std=inputs["std"],
            score_loss=self._score_loss,
            items=num_items_in_batch,
        )
        if num_items_in_batch is not None:
            # The items are those of all devices, over which gradients are then averaged.
            loss = loss * self.accelerator.num_processes
        return (loss, logits) if return_outputs else loss

    @torch.no_grad()
    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, score logits (B, K), human scores (B,); for texts NaN, and nothing of use."""
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
            if self._score_loss is None:
                score_logits = logits.new_zeros(len(logits), 1)
            elif self._graph is not None and not inputs["score"].isnan().any():
                score_logits = self._graph(inputs["pixel_values"])
            else:
                answered = (inputs["labels"][:, 1:] >= 0).float().argmax(dim=1)
                rows = torch.arange(len(logits), device=logits.device)
                score_logits = logits[rows, answered][:, self._score_loss.ids.to(logits.device)]
        return loss.detach(), score_logits.float(), inputs["score"]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What learns, not the frozen gigabytes beside it."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = state_dict or self.model.state_dict()
        kept = {name: state[name].contiguous().cpu() for name in learning(self.model)}
        save_file(kept, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        file = Path(resume_from_checkpoint) / _WEIGHTS
        if not file.is_file():  # a sharded one
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        outcome = (model or self.model).load_state_dict(load_file(file), strict=False)
        assert not outcome.unexpected_keys, outcome.unexpected_keys


class MarkWhole(TrainerCallback):
    """Says of each checkpoint that it was written to its end."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes the state of its random numbers
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _WHOLE).touch()


class Say(TrainerCallback):
    """Progress as log lines: stdout is for results."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if state.is_world_process_zero and logs:
            shown = {key: value for key, value in logs.items() if key in _SHOWN}
            text = "  ".join(f"{_SHOWN[key]} {value:.4g}" for key, value in shown.items())
            if text:
                _log.info("step %d of %d  %s", state.global_step, state.max_steps, text)


_SHOWN = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "eval_score_loss": "validation loss",
    "eval_score_srcc": "SRCC",
    "eval_score_plcc": "PLCC",
    "eval_text_loss": "validation loss of texts",
}


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [c for c in folder.glob("checkpoint-*") if (c / _WHOLE).exists()]
    return max(whole, key=_step, default=None)


def drop_broken(folder: Path) -> None:
    """Remove checkpoints that a kill cut off."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / _WHOLE).exists():
            _log.warning("removed %s, which was not written to its end", checkpoint)
            shutil.rmtree(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def correlations(tokens: ScoreTokens) -> Any:
    """A ``compute_metrics``: SRCC and PLCC of read-out scores; nothing for texts."""

    def compute(prediction: Any) -> dict[str, float]:
        human = np.asarray(prediction.label_ids)
        if np.isnan(human).any() or len(human) < 3:
            return {}
        predicted = tokens.readout(prediction.predictions).score
        return {"srcc": srcc(predicted, human), "plcc": plcc(predicted, human)}

    return compute
