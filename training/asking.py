"""Ask a model many questions at once, every outcome on disk before the next is begun.

Killed at any moment, a run is taken up where it was by running it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artimuse_core.errors import ModelError, UsageError
from .answers import Answers, Record
from .mllm import Check, Endpoint, ItemFailed, Mllm, Spent


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask about one image."""

    key: tuple[str, ...]
    """What tells it from the others in its file: the values of the record's key fields."""
    image: Path
    prompt: str
    check: Check
    record: Mapping[str, Any]
    """What its line says besides the answer; the key fields come first."""


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    done: int = 0
    failed: int = 0
    kept: int = 0
    """Done before, and not asked again."""
    tokens_in: int = 0
    tokens_out: int = 0
    requests: int = 0


def ask_all(
    questions: Sequence[Question],
    answers: Answers,
    endpoint: Endpoint,
    *,
    concurrency: int = 8,
    skip_failed: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Tally:
    """Ask what is not yet answered; returns what it came to.

    Questions that failed before are asked again unless ``skip_failed``. Raises UsageError if the
    answers are another model's, and ModelError when going on is no use; what is done stays done.
    """
    if concurrency < 1:
        raise UsageError(f"expected a concurrency of at least 1, got {concurrency}")
    with answers.appending():
        others = {record.get("model") for record in answers.records.values()} - {endpoint.model}
        if others:
            raise UsageError(
                f"{answers.file} holds answers of {', '.join(sorted(map(str, others)))}; "
                f"write those of {endpoint.model} to another file"
            )
        settled = ("done", "failed") if skip_failed else ("done",)
        rest = [
            question
            for question in questions
            if answers.records.get(question.key, {}).get("status") not in settled
        ]
        tally = Tally(kept=len(questions) - len(rest))
        if rest:
            asyncio.run(_ask_all(rest, answers, endpoint, concurrency, tally, on_record))
    return tally


async def _ask_all(
    questions: Sequence[Question],
    answers: Answers,
    endpoint: Endpoint,
    concurrency: int,
    tally: Tally,
    on_record: Callable[[Record], None],
) -> None:
    mllm = Mllm(endpoint)
    waiting = iter(questions)
    unreachable = 0

    async def work() -> None:
        nonlocal unreachable
        for question in waiting:  # shared: each takes the next
            spent = Spent()
            outcome: dict[str, Any]
            try:
                text = await mllm.ask(question.image, question.prompt, question.check, spent)
                outcome, unreachable = {"status": "done", "text": text}, 0
            except ItemFailed as error:
                outcome = {"status": "failed", "reason": str(error)}
                unreachable = unreachable + 1 if error.unreachable else 0
            record = {**question.record, **outcome, "model": endpoint.model}
            record |= {
                "tokens_in": spent.tokens_in,
                "tokens_out": spent.tokens_out,
                "requests": spent.requests,
            }
            answers.append(question.key, record)
            _count(tally, record)
            on_record(record)
            if unreachable > 2 * concurrency:
                raise ModelError(f"the endpoint is not to be reached: {outcome['reason']}")

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(questions)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await mllm.close()


def _count(tally: Tally, record: Record) -> None:
    tally.done += record["status"] == "done"
    tally.failed += record["status"] == "failed"
    tally.tokens_in += record["tokens_in"]
    tally.tokens_out += record["tokens_out"]
    tally.requests += record["requests"]
