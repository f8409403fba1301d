"""``artimuse judge``: which model writes the better critiques."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artimuse_core.errors import UsageError
from .asking import Asking, asking_options, run_questions
from .common import Group, existing_or_not, needs, with_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..training.critiques import Comparison
    from ..training.judge import Rates


@click.group(cls=Group)
def judge() -> None:
    """Compare models' critiques: by a multimodal model, or by people."""


def comparison_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return with_options(
        command,
        click.option(
            "--critic",
            "critics",
            required=True,
            multiple=True,
            metavar="NAME=SOURCE",
            help="A model's critiques: what critique --json or annotate wrote, or a data set's. "
            "At least two.",
        ),
        click.option("--images", default=None, type=existing_or_not, help="Where images lie."),
        click.option("--seed", default=0, show_default=True, help="Of the order of the answers."),
    )


@judge.command("mllm")
@click.option("--expert", required=True, help="The experts' critiques: NAME:FOLDER or a table.")
@comparison_options
@click.option("--output", required=True, type=existing_or_not, help="The .jsonl to write or go on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@asking_options
def by_mllm(
    expert: str,
    critics: Sequence[str],
    images: Path | None,
    seed: int,
    output: Path,
    as_json: bool,
    ask: Asking,
) -> None:
    """A multimodal model picks the critique nearest to the expert's (the paper's Table 2).

    Every choice is on disk before the next is asked; run the same command again to go on.
    """
    with needs("annotate"):
        from ..training import judge as judging
    comparisons = _comparisons(critics, expert, images)
    questions = judging.questions(comparisons, seed=seed)
    answers = judging.answers(output)
    judging.check_same_questions(questions, answers)
    click.echo(f"{len(questions)} questions between {len(critics)} models", err=True)

    def show() -> None:
        asked = {question.key for question in questions}
        rates = judging.tally(row for key, row in answers.read().items() if key in asked)
        names = list(comparisons[0].critiques)
        if as_json:
            click.echo(json.dumps(_as_json(rates, names), ensure_ascii=False))
        else:
            click.echo(judging.markdown(rates, names), nl=False)

    run_questions(questions, answers, ask, then=show)


def _as_json(rates: Rates, names: Sequence[str]) -> dict[str, Any]:
    return {
        "rates": {
            about: {name: rates.percent(about, name) for name in names} for about in rates.counts
        },
        "average": {name: rates.average(name) for name in names},
        "questions": sum(rates.positions),
        "failed": rates.failed,
        "positions": rates.positions,
    }


@judge.command("questionnaire")
@click.option("--expert", default=None, help="Images with their categories and scores, to draw by.")
@comparison_options
@click.option("--questions", "count", default=20, show_default=True, type=click.IntRange(1))
@click.option("--title", default="Which text describes the picture best?", show_default=True)
@click.option("--output", required=True, type=existing_or_not, help="The page; must not exist.")
def questionnaire(
    expert: str | None,
    critics: Sequence[str],
    images: Path | None,
    seed: int,
    count: int,
    title: str,
    output: Path,
) -> None:
    """Write a page that asks people, one file to send around; keep the key to yourself.

    The page works without a network and saves each participant's answers as a JSON file.
    """
    from ..training import questionnaire as study

    chosen = study.choose(_comparisons(critics, expert, images), count, seed=seed)
    key = study.build(chosen, output, title=title, seed=seed)
    click.echo(str(output))
    click.echo(f"the key, not to be sent: {key}", err=True)


@judge.command("tally")
@click.option("--key", required=True, type=existing_or_not, help="What came with the page.")
@click.argument("answers", nargs=-1, required=True, type=existing_or_not, metavar="ANSWERS.json...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tally(key: Path, answers: Sequence[Path], as_json: bool) -> None:
    """Count the answers that participants sent back."""
    from ..training import questionnaire as study

    found = study.tally(key, answers)
    if as_json:
        row = {"participants": found.participants, "counts": found.counts}
        row |= {"by_experience": found.by_experience, "skipped": found.skipped}
        click.echo(json.dumps(row, ensure_ascii=False))
    else:
        click.echo(study.markdown(found), nl=False)


def _comparisons(
    critics: Sequence[str], expert: str | None, images: Path | None
) -> list[Comparison]:
    from ..training.critiques import compare, read_critiques, read_experts

    models = {}
    for critic in critics:
        name, equals, source = critic.partition("=")
        if not equals or not name or name in models:
            raise UsageError(f"expected --critic NAME=SOURCE, each name once, got {critic!r}")
        models[name] = read_critiques(source, images)
    experts = None if expert is None else read_experts(expert, images)
    return compare(models, experts)
