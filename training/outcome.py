"""What a stage leaves: an adapter with the trained towers beside it, or a whole checkpoint.

The layout is what :mod:`..artimuse_core.adapter` reads: LoRA factors in ``adapter_model``, tensors
trained in full in ``trained``, ``config.json`` with the token strategy, the tokenizer, a card.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..artimuse_core import checkpoint
from ..artimuse_core.score_tokens import ScoreTokens
from ..artimuse_core.weights import ADAPTER_WEIGHTS
from .learning import learning, lora_tensors, plain_name


@dataclass(frozen=True)
class Trained:
    """What belongs to a model besides its weights."""

    base: Path
    config: dict[str, Any]
    """``config.json``, in the layout of the base."""
    tokenizer: Any
    lora: Any
    """peft's LoraConfig; None where the language model learnt in full or not at all."""

    @property
    def tokens(self) -> ScoreTokens:
        return checkpoint.score_tokens(self.config)


def write_model(
    output: Path,
    model: Any,
    state: dict[str, torch.Tensor],
    trained: Trained,
    facts: dict[str, Any],
) -> None:
    """Write the model into ``output``; ``state`` is the whole state dict, gathered.

    With LoRA an adapter; otherwise a checkpoint in the layout of its base, in fp32.
    """
    trained.tokenizer.save_pretrained(output)
    (output / "README.md").write_text(card(trained, facts), encoding="utf-8")
    if trained.lora is None:
        _write_whole(output, model, state, trained.config)
        return
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    learnt = {name: state[name] for name in learning(model)}
    save_file(lora_tensors(learnt), output / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    beside = {plain_name(name): w for name, w in learnt.items() if ".lora_" not in name}
    if beside:
        save_file(beside, output / "trained.safetensors", metadata={"format": "pt"})
    checkpoint.write_config(output, trained.config)
    inside = trained.base.is_relative_to(output)
    base = trained.base.relative_to(output) if inside else trained.base.resolve()
    trained.lora.base_model_name_or_path = str(base)
    trained.lora.save_pretrained(output)  # adapter_config.json
    for file in output.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes it readable for its owner alone


def _write_whole(
    output: Path, model: Any, state: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    model.load_state_dict(state, assign=True)
    if checkpoint.is_official(config):
        checkpoint.save_model(output, model, config, torch.float32)
    else:
        checkpoint.save_native(output, model, config)


def write_merged(directory: Path, output: Path) -> None:
    """The adapter and its base as one checkpoint in transformers' native format."""
    if output.exists():  # a kill came after it and before the run was called finished
        shutil.rmtree(output)
    checkpoint.convert(directory, output)


def card(trained: Trained, facts: dict[str, Any]) -> str:
    """The model card, Markdown."""
    config = facts["config"]
    kind = "LoRA adapter and trained towers over" if trained.lora else "checkpoint trained from"
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in facts["figures"].items())
    settings = "\n".join(f"| {name} | {value} |" for name, value in config.items())
    use = (
        f'`artimuse score --model DIR picture.png`, or `Scorer.load("DIR")`. Answers in the tokens '
        f"of `{trained.tokens.name}`."
        if config["max_tiles"] == 1
        else "Trained on several tiles an image, an ablation: only its own training evaluates it."
    )
    return f"""# ArtiMuse, {config["stage"]} stage

A {kind} `{facts["model"]}`, by `artimuse train {config["stage"]}`.

{use}

Learnt from {facts["samples"]["train"]} images ({facts["data"]}), and validated on
{facts["samples"]["validation"]} others. Scores follow the people who rated these images; on other
kinds of image, measure first (`artimuse evaluate`).

| validation | |
|---|---|
{figures}

| setting | |
|---|---|
{settings}

{len(facts["failed"])} images could not be read and were left out.
"""
