"""``artimuse train``: the paper's two stages, on one's own ratings."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .common import FAILED, Group, existing_or_not, needs, with_options


@click.group(cls=Group)
def train() -> None:
    """Fine-tune a model: first critiques (text), then scores (score)."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both stages take. Options without a default leave the field as it is."""
    return with_options(
        command,
        click.option(
            "--config", "file", help="YAML with sections text and score; or shipped: table4-i."
        ),
        click.option(
            "--data", "sources", multiple=True, required=True,
            help="Ratings or critiques: FILE.csv, FILE.jsonl or NAME:FOLDER; may be repeated. "
            "SUBSET=… marks it as score-caption, partial-text or professional.",
        ),
        click.option("--output", required=True, type=existing_or_not, help="Directory to write."),
        click.option(
            "--model", default="artimuse", show_default=True,
            help="What to start from: a name, hub id or directory; adapters are merged.",
        ),
        click.option("--images", type=existing_or_not, help="Where images lie, if elsewhere."),
        click.option("--scale", help="Range of a table's scores, worst:best, e.g. 1:10."),
        click.option(
            "--validation", multiple=True, help="Validate on this; else a part of --data is."
        ),
        click.option("--subset", "subsets", multiple=True, help="Use marked data of this alone."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
        click.option("--resume", is_flag=True, help="Go on with an interrupted run, or start."),
        click.option("--merge", is_flag=True, help="Also write OUTPUT/merged, a checkpoint."),
        click.option("--llm", type=click.Choice(["lora", "full", "frozen"]), help="How it learns."),
        click.option("--lora-rank", type=int),
        click.option("--freeze-vision", is_flag=True, help="The vision tower stays as it is."),
        click.option("--freeze-projector", is_flag=True),
        click.option("--epochs", type=int),
        click.option("--batch-size", type=int, help="Samples a step, over all devices."),
        click.option("--device-batch-size", type=int, help="Samples a device holds at once."),
        click.option("--learning-rate", type=float),
        click.option("--weight-decay", type=float),
        click.option("--max-length", type=int, help="Tokens of prompt and answer."),
        click.option("--max-tiles", type=int, help="Tiles an image; 12 is InternVL's own way."),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"])),
        click.option("--gradient-checkpointing", is_flag=True, help="Half the memory, slower."),
        click.option("--tracker", type=click.Choice(["tensorboard", "wandb", "none"])),
        click.option("--workers", type=int, help="Processes that decode images."),
        click.option("--seed", type=int),
    )  # fmt: skip


@train.command()
@_options
def text(**options: Any) -> None:
    """Text stage: learn critiques (paper Sec. 4.3; defaults from Table 11)."""
    _run("text", texts=(), **options)


@train.command()
@click.option(
    "--tokens", "score_tokens",
    help="Strategy of App. C: ordered-100, non-ordered-100, existing-25, existing-50, "
    "expanding-N, five-levels or score-as-text.",
)  # fmt: skip
@click.option("--score-question", help="What the score is asked with.")
@click.option("--text-data", "texts", multiple=True, help="Critiques whose loss to watch.")
@click.option("--joint", is_flag=True, help="Learn --text-data at the same time.")
@click.option("--soft-label", is_flag=True, help="Spread targets by each rating's own std.")
@click.option("--ordinal", type=float, help="Weight of the ordinal regularizer.")
@_options
def score(**options: Any) -> None:
    """Score stage: learn scores as tokens (paper Sec. 4.3; defaults from Table 11)."""
    _run("score", **options)


def _run(
    stage: str,
    *,
    file: str | None,
    sources: tuple[str, ...],
    output: Path,
    model: str,
    images: Path | None,
    scale: str | None,
    validation: tuple[str, ...],
    subsets: tuple[str, ...],
    texts: tuple[str, ...],
    device: str,
    resume: bool,
    merge: bool,
    freeze_vision: bool,
    freeze_projector: bool,
    **fields: Any,
) -> None:
    _progress()
    with needs("train"):
        from ..training import datasets, stages
        from ..training.arguments import stage_config
    # A flag that is not given leaves the configuration file's word.
    fields = {key: value for key, value in fields.items() if value is not False}
    fields["subsets"] = subsets or None
    fields["train_vision"] = False if freeze_vision else None
    fields["train_projector"] = False if freeze_projector else None
    data = stages.Data(
        sources,
        validation,
        texts,
        images,
        datasets.parse_scale(scale) if scale else None,
    )
    config = stage_config(stage, file, fields)
    outcome = stages.run_stage(
        model, data, output, config, device=device, resume=resume, merge=merge
    )
    if not outcome.main:
        return
    for name, value in outcome.figures["figures"].items():
        click.echo(f"{name.replace('_', ' ')}: {value:.4f}")
    click.echo(str(outcome.directory))
    for name in outcome.figures["failed"]:
        click.echo(f"failed: {name}", err=True)
    if outcome.figures["failed"]:
        sys.exit(FAILED)


def _progress() -> None:
    """Training lasts: say how it goes on stderr, without -v too."""
    training = logging.getLogger(f"{__name__.removesuffix('.commands.train')}.training")
    training.setLevel(min(logging.INFO, training.getEffectiveLevel()))
    # The libraries' own notices of what will change in their later versions.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
