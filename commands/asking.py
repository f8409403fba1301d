"""What the commands that ask a multimodal model share: its options, progress, cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import UsageError
from .common import FAILED, INTERRUPTED, needs, with_options

if TYPE_CHECKING:
    from ..training.answers import Answers, Record
    from ..training.asking import Question
    from ..training.mllm import Endpoint


@dataclass(frozen=True)
class Asking:
    """What a command's options say of the model that is asked."""

    mllm: str
    endpoint: str
    concurrency: int
    timeout_s: float
    attempts: int
    max_tokens: int
    temperature: float | None
    price: str
    skip_failed: bool

    def opened(self) -> Endpoint:
        with needs("annotate"):
            from ..training.mllm import Endpoint
        if not self.mllm:
            raise UsageError("name the model to ask with --mllm")
        return Endpoint(
            self.mllm,
            self.endpoint or None,
            timeout_s=self.timeout_s,
            attempts=self.attempts,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )

    def prices(self) -> tuple[float, float] | None:
        """US dollars for a million tokens in and out."""
        if not self.price:
            return None
        ends = self.price.split(":")
        try:
            first, second = (float(end) for end in ends)
        except ValueError:
            raise UsageError(
                f"expected --price IN:OUT such as 0.1:0.4, got {self.price!r}"
            ) from None
        return first, second


def asking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make up an :class:`Asking`, which the command gets as ``ask``."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        ask = Asking(**{part.name: given.pop(part.name) for part in fields(Asking)})
        return command(ask=ask, **given)

    return with_options(
        gathered,
        click.option("--mllm", default="", help="The model to ask, by its name at the endpoint."),
        click.option(
            "--endpoint",
            default="",
            help="An OpenAI-compatible one, http://…/v1; OpenAI's otherwise. The key is read from "
            "OPENAI_API_KEY.",
        ),
        click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1)),
        click.option("--timeout-s", default=120.0, show_default=True, help="For one request."),
        click.option(
            "--attempts", default=6, show_default=True, type=click.IntRange(1),
            help="Of a request that meets 429, 5xx, a timeout or a broken response.",
        ),
        click.option("--max-tokens", default=400, show_default=True, type=click.IntRange(1)),
        click.option("--temperature", default=None, type=float, help="The endpoint's otherwise."),
        click.option("--price", default="", help="Dollars for a million tokens, IN:OUT."),
        click.option("--skip-failed", is_flag=True, help="Do not ask again what failed before."),
    )  # fmt: skip


def run_questions(
    questions: list[Question],
    answers: Answers,
    ask: Asking,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Ask what is left, say on stderr what it came to, and leave with the exit code it asks for.

    ``then`` prints the results, if there are any besides the file.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ..training.asking import ask_all

    endpoint, prices = ask.opened(), ask.prices()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("asking"), BarColumn(), MofNCompleteColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    try:
        with bar:
            task = bar.add_task("", total=None)

            def show(record: Record) -> None:
                bar.advance(task)
                if record["status"] == "failed":
                    name = ", ".join(str(record[field]) for field in answers.key_fields)
                    click.echo(f"failed: {name}: {record['reason']}", err=True)

            tally = ask_all(
                questions,
                answers,
                endpoint,
                concurrency=ask.concurrency,
                skip_failed=ask.skip_failed,
                on_record=show,
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; {answers.file} keeps what is done, run this again", err=True)
        sys.exit(INTERRUPTED)
    click.echo(
        f"{tally.done} done, {tally.failed} failed, {tally.kept} from before; "
        f"{tally.requests} requests, {cost(tally.tokens_in, tally.tokens_out, prices)}",
        err=True,
    )
    click.echo(f"{answers.file}: {whole_cost(answers.read().values(), prices)} in all", err=True)
    then()
    asked = {question.key for question in questions}
    if any(answers.records[key]["status"] == "failed" for key in asked & set(answers.records)):
        sys.exit(FAILED)


def cost(tokens_in: int, tokens_out: int, prices: tuple[float, float] | None) -> str:
    text = f"{tokens_in:,} tokens in, {tokens_out:,} out"
    if prices is None:
        return text
    return f"{text}, ${(tokens_in * prices[0] + tokens_out * prices[1]) / 1e6:.4f}"


def whole_cost(records: Iterable[Record], prices: tuple[float, float] | None) -> str:
    rows = list(records)
    sums = [sum(row[name] for row in rows) for name in ("tokens_in", "tokens_out")]
    return cost(sums[0], sums[1], prices)
