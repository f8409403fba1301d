"""``artimuse annotate``: critiques to learn from."""

from __future__ import annotations

from pathlib import Path

import click

from ..artimuse_core.errors import UsageError
from .asking import Asking, asking_options, run_questions
from .common import Command, existing_or_not, needs


@click.command(cls=Command)
@click.option("--data", required=True, help="NAME:FOLDER of a data set, or a .csv or .jsonl table.")
@click.option("--images", default=None, type=existing_or_not, help="Where its images lie.")
@click.option("--scale", default=None, help="Of a table's scores, LOW:HIGH; 0:100 otherwise.")
@click.option("--split", default=None, type=click.Choice(("train", "validation", "test")))
@click.option("--output", required=True, type=existing_or_not, help="The .jsonl to write or go on.")
@click.option(
    "--type",
    "kind",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "0", "1", "2", "3")),
    help="1: score to analysis; 2: partial text to eight critiques; 3: take over experts' own; "
    "0: critiques of the image alone, of a model to be judged.",
)
@click.option("--paper-subset", is_flag=True, help="Only what the paper's App. B.2 keeps.")
@click.option("--extreme-share", default=None, type=float, help="Of it, in the extreme quarters.")
@click.option("--seed", default=0, show_default=True, help="Of what the subset draws.")
@click.option("--limit", default=None, type=click.IntRange(1), help="The first so many images.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked, and ask nothing.")
@asking_options
def annotate(
    data: str,
    images: Path | None,
    scale: str | None,
    split: str | None,
    output: Path,
    kind: str,
    paper_subset: bool,
    extreme_share: float | None,
    seed: int,
    limit: int | None,
    dry_run: bool,
    ask: Asking,
) -> None:
    """Have a multimodal model write critiques from scores or partial texts.

    Every answer is on disk before the next is asked; run the same command again to go on after
    a kill, or to ask again what failed. Read the result with --data annotations:FILE.
    """
    with needs("annotate"):
        from ..training import annotate as annotation
    from ..training import datasets
    from ..training.datasets import paper_subsets

    name = datasets.name_of(data)
    samples = datasets.load_source(
        data, split=split, images=images, scale=datasets.parse_scale(scale) if scale else None
    )
    if paper_subset:
        subset = paper_subsets.paper_subset(name, samples, seed=seed, extreme_share=extreme_share)
        click.echo(subset.report, err=True)
        samples = subset.samples
    elif extreme_share is not None:
        raise UsageError("--extreme-share belongs to --paper-subset")
    samples = samples[:limit]
    number = annotation.kind_of(name, samples) if kind == "auto" else int(kind)
    answers = annotation.answers(output)
    if number == 3:
        written = 0 if dry_run else annotation.import_experts(samples, answers)
        click.echo(f"taken over: critiques {written}, images {len(samples)}", err=True)
        return
    questions = annotation.questions(name, samples, number)
    left_out = len(samples) - len({question.image for question in questions})
    click.echo(
        f"type {number}: questions {len(questions)}, images {len(samples) - left_out}"
        + (f"; with nothing to go by {left_out}" if left_out else ""),
        err=True,
    )
    if dry_run:
        click.echo(f"{questions[0].image}\n{questions[0].prompt}")
        return
    run_questions(questions, answers, ask)
