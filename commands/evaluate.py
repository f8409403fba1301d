"""``artimuse evaluate``: how well models agree with people."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import ImageError, UsageError
from .common import FAILED, Command, Model, existing_or_not, model_options, needs

if TYPE_CHECKING:
    from ..artimuse_core.scorer import Scorer
    from ..training.datasets.base import Sample
    from ..training.evaluate import Evaluation, Prediction
    from ..training.predictions import Predictions

NAMED = 20
"""Missing images that are named on stderr; the JSON names all."""


@click.command(cls=Command)
@click.option(
    "--data",
    "sources",
    required=True,
    multiple=True,
    help="Ratings: image,score in .csv or .jsonl, or NAME:FOLDER of a data set; may be repeated.",
)
@click.option(
    "--images", default=None, type=existing_or_not, help="Where the images of one --data lie."
)
@click.option("--scale", default=None, help="Of a table's scores, LOW:HIGH; 0:100 otherwise.")
@click.option(
    "--split",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "all", "train", "validation", "test")),
    help="auto: the test split where the data set has one.",
)
@click.option("--against", multiple=True, help="A further model to compare; may be repeated.")
@click.option("--per", default=None, help="Figures for each value of a group: generator, …")
@click.option("--together", default=None, help="A group the bootstrap draws as one: prompt, …")
@click.option(
    "--output",
    default=None,
    type=existing_or_not,
    help="A folder for JSON, Markdown, CSV and plot.",
)
@click.option("--resume", is_flag=True, help="Go on with what is in --output's folder.")
@model_options
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object for each model and data set."
)
def evaluate(
    sources: Sequence[str],
    images: Path | None,
    scale: str | None,
    split: str,
    against: Sequence[str],
    per: str | None,
    together: str | None,
    output: Path | None,
    resume: bool,
    use: Model,
    as_json: bool,
) -> None:
    """Compare models' scores with people's: SRCC, PLCC, Kendall's tau, RMSE after a logistic fit.

    Several models (--model, --against) on several --data make the cross-dataset matrix of the
    paper's Table 13, its figures beside ours. Missing images are named, and the exit code is 1.
    """
    with needs("train"):
        from ..training import evaluation_report
    from ..training.predictions import Predictions

    if resume and output is None:
        raise UsageError("--resume needs the --output folder of the earlier run")
    loaded = _load(sources, images, scale, split)
    done: list[Evaluation] = []
    many, failed = len(sources) + len(against) > 1, False
    with ExitStack() as stack:
        store = stack.enter_context(Predictions(output, resume=resume)) if output else None
        for label, scorer in _models(use, against):
            for data, samples in loaded.items():
                try:
                    answer = _evaluate(scorer, label, data, samples, store, use, per, together)
                except ImageError as error:
                    click.echo(f"failed: {label} on {data}: {error}", err=True)
                    failed = True
                    continue
                done.append(answer)
                failed |= bool(answer.missing or answer.failed)
                _name_lost(answer.missing, answer.failed)
                if as_json:
                    click.echo(json.dumps(_line(answer.as_dict(), many=many)))
    if done and not as_json:
        click.echo(evaluation_report.markdown(done), nl=False)
    if done and output is not None:
        for path in [output / "predictions.csv", *evaluation_report.write(done, output)]:
            click.echo(f"written {path}", err=True)
    if failed:
        sys.exit(FAILED)


def _load(
    sources: Sequence[str], images: Path | None, scale: str | None, split: str
) -> dict[str, list[Sample]]:
    """The samples to evaluate on, by the name of their data set or table."""
    from ..training import datasets

    if len(sources) > 1 and (images is not None or scale is not None):
        raise UsageError("--images and --scale go with one --data; name each in a run of its own")
    loaded = {}
    for source in sources:
        found = datasets.load_source(
            source, images=images, scale=datasets.parse_scale(scale) if scale else None
        )
        name = datasets.name_of(source)
        data = Path(source).stem if name == "table" else name
        loaded[data] = _part(data, found, split)
    if len(loaded) < len(sources):
        raise UsageError(f"two --data have one name: {', '.join(sources)}")
    return loaded


def _models(use: Model, against: Sequence[str]) -> Iterator[tuple[str, Scorer]]:
    """Each model with what to call it, loaded when its turn comes."""
    from ..artimuse_core.models import locate
    from ..training import paper_tables

    names, called = list(dict.fromkeys([use.model, *against])), set[str]()
    for name in names:  # a wrong name is told before hours are spent on the others
        locate(name)
    for name in names:
        scorer = dataclasses.replace(use, model=name).load()
        # A published model lies in a folder named by a hash, and two folders may have one name.
        label = name if name in paper_tables.ROWS or scorer.name in called else scorer.name
        called.add(label)
        yield label, scorer


def _evaluate(
    scorer: Scorer,
    label: str,
    data: str,
    samples: list[Sample],
    store: Predictions | None,
    use: Model,
    per: str | None,
    together: str | None,
) -> Evaluation:
    from ..training import evaluate as evaluation

    with _progress(f"{label} on {data}", len(samples)) as advance:

        def keep(one: Prediction) -> None:
            advance()
            if store is not None:
                store.add(label, data, one.image, one.human, one.predicted)

        return evaluation.evaluate(
            scorer,
            samples,
            dataset=data,
            model=label,
            per=per,
            together=together,
            batch_size=use.batch_size,
            known=store.known(label, data) if store else None,
            on_score=keep,
        )


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A live bar on stderr, nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _part(label: str, samples: list[Sample], split: str) -> list[Sample]:
    """The split that was asked for; says so where the data set decides."""
    if split == "all":
        return samples
    wanted = "test" if split == "auto" else split
    part = [sample for sample in samples if sample.split == wanted]
    if split == "auto" and part:
        click.echo(f"{label}: {len(part)} images of its test split; --split all for all", err=True)
    elif split != "auto" and not part:
        raise UsageError(f"{label} has no images in split {split!r}")
    return part or samples


def _line(row: dict[str, Any], *, many: bool) -> dict[str, Any]:
    names = ("model", "dataset") if many else ()
    line = {name: row[name] for name in (*names, "srcc", "plcc", "n")}
    return line | ({"groups": row["groups"]} if row["groups"] else {})


def _name_lost(missing: Sequence[Path], failed: Sequence[str]) -> None:
    for path in missing[:NAMED]:
        click.echo(f"missing: {path}", err=True)
    if len(missing) > NAMED:
        click.echo(f"missing: {len(missing) - NAMED} more, {len(missing)} in all", err=True)
    for line in failed:
        click.echo(f"failed: {line}", err=True)
