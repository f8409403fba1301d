"""Which model's critique comes nearest to the expert's, as a multimodal model judges it.

Paper Sec. 5.2 and App. D.4: a single choice by image and attribute. The order of the answers is
shuffled for each question, since judges prefer some positions; the shares by position are
reported beside the result.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..artimuse_core.attributes import ATTRIBUTES, attribute
from ..artimuse_core.errors import UsageError
from . import paper_tables
from .answers import Answers, Record
from .asking import Question
from .critiques import Comparison
from .markdown import markdown_table
from .mllm import BadAnswer

KEY_FIELDS = ("image", "attribute")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each model was chosen."""

    counts: Mapping[str, Mapping[str, int]]
    """By attribute and model; attributes in Table 5's order."""
    positions: tuple[int, ...]
    """Choices of the first answer shown, the second, …"""
    failed: int
    """Questions without a valid choice."""

    def percent(self, about: str, model: str) -> float | None:
        """0..100, of the questions on an attribute; None where none was judged."""
        judged = sum(self.counts[about].values())
        return 100 * self.counts[about][model] / judged if judged else None

    def average(self, model: str) -> float | None:
        """Mean over the attributes that were judged, as Table 2 has it."""
        shares = [self.percent(about, model) for about in self.counts]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if known else None


def answers(file: Path) -> Answers:
    return Answers(file, KEY_FIELDS)


def questions(comparisons: Sequence[Comparison], *, seed: int = 0) -> list[Question]:
    """One single-choice question by image and attribute; needs the experts' critiques."""
    asked = []
    for one in comparisons:
        if one.expert is None:
            raise UsageError("judging needs the experts' critiques")
        order = list(one.critiques)
        random.Random(f"{seed}:{one.image}:{one.attribute}").shuffle(order)
        record = {"image": str(one.image), "attribute": one.attribute, "order": order}
        asked.append(
            Question(
                (str(one.image), one.attribute),
                one.image,
                prompt(one, order),
                partial(check_choice, count=len(order)),
                record,
            )
        )
    return asked


def prompt(comparison: Comparison, order: Sequence[str]) -> str:
    """App. D.4's words, then what they speak of, which the paper does not lay out."""
    labels = [f"model{place}" for place in range(1, len(order) + 1)]
    count = _NUMBERS[len(order)] if len(order) < len(_NUMBERS) else str(len(order))
    listed = ", ".join(labels)
    about = attribute(comparison.attribute)
    responses = "\n\n".join(
        f"{label}:\n{comparison.critiques[name]}" for label, name in zip(labels, order, strict=True)
    )
    return (
        "You are an expert aesthetic evaluation judge. Your task is to evaluate the aesthetic "
        "analysis quality of each model’s response, based on its alignment with the given human "
        f"expert critique. There are {count} model-generated responses: "
        f"{', '.join(labels[:-1])}, and {labels[-1]}. Assess them independently for clarity, "
        "accuracy, insightfulness, and relevance, and identify the single best response overall. "
        f"Output only the identifier of the best model (i.e., one of: {listed}) - do not include "
        "any extra text, explanation, symbols, or formatting.\n\n"
        f"Attribute: {about.name}. {about.description}\n\n"
        f"Human expert critique:\n{comparison.expert}\n\n{responses}"
    )


def check_choice(text: str, count: int) -> str:
    """``model1`` … ``modelN`` and nothing else; raises BadAnswer."""
    if text not in {f"model{place}" for place in range(1, count + 1)}:
        raise BadAnswer(f"expected one of model1 to model{count} alone, got {text[:40]!r}")
    return text


def check_same_questions(asked: Sequence[Question], file: Answers) -> None:
    """Raises UsageError if answers on disk were to these questions in another order."""
    records = file.read()
    for question in asked:
        order = records.get(question.key, {}).get("order", question.record["order"])
        if order != question.record["order"]:
            raise UsageError(
                f"{file.file} was judged between {', '.join(sorted(order))} with another order; "
                "use another file, or the same models and seed"
            )


def tally(records: Iterable[Record]) -> Rates:
    """Count the choices of judged questions."""
    counts: dict[str, Counter[str]] = {}
    positions: Counter[int] = Counter()
    failed, most = 0, 0
    for record in records:
        models = counts.setdefault(record["attribute"], Counter())
        models.update(dict.fromkeys(record["order"], 0))
        most = max(most, len(record["order"]))
        if record["status"] != "done":
            failed += 1
            continue
        place = int(record["text"].removeprefix("model")) - 1
        models[record["order"][place]] += 1
        positions[place] += 1
    ordered = {a.name: counts[a.name] for a in ATTRIBUTES if a.name in counts}
    return Rates(ordered, tuple(positions[place] for place in range(most)), failed)


def markdown(rates: Rates, names: Sequence[str]) -> str:
    """Table 2: selection rates, with the paper's own beside a model it has too."""
    columns: list[str] = []
    for name in names:
        columns += [name, f"paper: {name}"] if name in paper_tables.TABLE_2 else [name]
    rows = []
    for number, about in enumerate(ATTRIBUTES):
        if about.name not in rates.counts:
            continue
        row = [f"{number + 1}. {about.name}"]
        for name in names:
            row.append(_percent(rates.percent(about.name, name)))
            if name in paper_tables.TABLE_2:
                row.append(_percent(paper_tables.TABLE_2[name][number]))
        rows.append([*row, str(sum(rates.counts[about.name].values()))])
    total = ["Attributes average"]
    for name in names:
        total.append(_percent(rates.average(name)))
        if name in paper_tables.TABLE_2:
            total.append(_percent(paper_tables.TABLE_2_AVERAGE[name]))
    judged = sum(rates.positions)
    rows.append([*total, str(judged)])
    shares = ", ".join(
        f"{place}. {_percent(100 * count / judged if judged else None)}"
        for place, count in enumerate(rates.positions, start=1)
    )
    lines = [f"Chosen by place in the question: {shares}."]
    if rates.failed:
        lines.append(f"Questions without a valid choice, not counted: {rates.failed}.")
    head = ["aesthetic attribute", *columns, "questions"]
    return "\n\n".join([markdown_table(head, rows), *lines]) + "\n"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1f}%"
