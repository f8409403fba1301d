"""What decides a training run: a dataclass, filled from YAML and the command line.

A configuration file has a section a stage, ``text`` and ``score``; what it leaves out is Table 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..artimuse_core.errors import UsageError
from ..artimuse_core.score_tokens import ORDERED_100, strategy

STAGES = ("text", "score")
SUBSETS = ("score-caption", "partial-text", "professional")
"""Sec. 4.1's three sources of images, Table 4's columns: scored by people; with comments; ours."""
_LLM = ("lora", "full", "frozen")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TRACKERS = ("tensorboard", "wandb", "none")
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class StageConfig:
    """One stage. Defaults are the score stage's of Table 11; :func:`stage_config` knows both."""

    stage: str = "score"
    """``text`` (Sec. 4.3, text pretrain) or ``score`` (score finetune)."""

    llm: str = "lora"
    """How the language model learns: ``lora``, ``full`` (Table 4 (d)) or ``frozen``."""
    lora_rank: int = 128
    """Rank r of the updates to the language model's linear layers; alpha is 2r."""
    lora_dropout: float = 0.05
    train_vision: bool = True
    """Whether the vision tower learns, in full."""
    train_projector: bool = True

    epochs: int = 2
    batch_size: int = 128
    """Samples an optimiser step, over all devices."""
    device_batch_size: int = 4
    """Samples a device computes at once; the rest is gradient accumulation."""
    learning_rate: float = 2e-5
    """At its highest; cosine decay to 0."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    max_length: int = 8192
    """Tokens of prompt and answer; longer answers are cut."""
    precision: str = "auto"
    """``auto``: bf16 where a GPU has it, fp16 on other GPUs, fp32 on the CPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: half the memory, a third more time."""
    seed: int = 0

    score_tokens: str = ORDERED_100.name
    """Strategy of App. C, a name in ``artimuse_core.score_tokens``."""
    score_question: str | None = None
    """What the score is asked with; None: the base's own, or one that names the tokens."""
    joint: bool = False
    """Learn texts and scores together, in the score stage (Table 4 (e))."""
    max_tiles: int = 1
    """Tiles an image: 1 is the paper's fixed resolution, 12 InternVL's dynamic one (App. D.1)."""
    subsets: tuple[str, ...] = SUBSETS
    """Which of :data:`SUBSETS` to learn from; data that are marked with none are always used."""
    soft_label: bool = False
    """Spread a score's target over neighbouring tokens by the rating's own std, where known."""
    ordinal: float = 0.0
    """Weight of the squared distance of cumulated distributions; 0 for the paper's loss."""

    validation_share: float = 0.1
    """Held out by prompt (or image) where the data set brings no cut of its own."""
    save_every: int = 50
    """Optimiser steps from one checkpoint to the next."""
    log_every: int = 5
    """Optimiser steps from one logged loss to the next."""
    tracker: str = "tensorboard"
    """Where curves go: ``tensorboard``, ``wandb`` or ``none``."""
    workers: int = 4
    """Processes that decode images; 0: the training process itself."""

    def __post_init__(self) -> None:
        def must(fine: bool, name: str, wanted: str) -> None:
            if not fine:
                raise UsageError(f"{name}: expected {wanted}, got {getattr(self, name)!r}")

        for field in fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        for name, known in (
            ("stage", STAGES), ("llm", _LLM), ("precision", _PRECISIONS), ("tracker", _TRACKERS),
        ):  # fmt: skip
            must(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        for name in ("lora_rank", "epochs", "batch_size", "device_batch_size", "max_tiles",
                     "save_every", "log_every"):  # fmt: skip
            must(getattr(self, name) >= 1, name, "at least 1")
        must(0 <= self.lora_dropout < 1, "lora_dropout", "0 up to below 1")
        must(self.learning_rate > 0, "learning_rate", "more than 0")
        must(0 <= self.warmup_ratio < 1, "warmup_ratio", "0 up to below 1")
        must(self.weight_decay >= 0, "weight_decay", "0 or more")
        must(self.max_length >= 2, "max_length", "at least 2")
        must(self.ordinal >= 0, "ordinal", "0 or more")
        must(0 < self.validation_share < 1, "validation_share", "more than 0, less than 1")
        must(self.workers >= 0, "workers", "0 or more")
        must(set(self.subsets) <= set(SUBSETS), "subsets", f"some of {', '.join(SUBSETS)}")
        must(
            self.llm != "frozen" or self.train_vision or self.train_projector,
            "llm", "something to learn: all parts are frozen",
        )  # fmt: skip
        tokens = strategy(self.score_tokens)
        spread = self.soft_label or self.ordinal > 0
        must(not spread or tokens.single_token, "score_tokens",
             "single tokens for soft_label and ordinal")  # fmt: skip
        must(self.max_tiles == 1 or tokens.single_token, "score_tokens",
             "single tokens where max_tiles is above 1")  # fmt: skip
        must(not self.joint or self.stage == "score", "joint", "the score stage")

    @property
    def accumulation(self) -> int:
        """Gradient accumulation steps on one device."""
        return self.accumulation_over(1)

    def accumulation_over(self, devices: int) -> int:
        """Batches a device computes before an optimiser step.

        Raises UsageError where the global batch cannot be shared out evenly.
        """
        steps, rest = divmod(self.batch_size, devices * self.device_batch_size)
        if rest or not steps:
            raise UsageError(
                f"batch_size {self.batch_size} is no multiple of {devices} device(s) × "
                f"device_batch_size {self.device_batch_size}; change one of them"
            )
        return steps

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"subsets": list(self.subsets)}


_TABLE_11_TEXT: dict[str, Any] = {
    "stage": "text", "lora_rank": 16, "epochs": 1, "learning_rate": 4e-5, "weight_decay": 0.05,
}  # fmt: skip


def stage_config(
    stage: str, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> StageConfig:
    """Table 11, changed by a configuration file, changed by ``overrides`` (None: not given).

    ``file`` is a path, or the name of a shipped one (``table4-d``). Raises UsageError naming the
    field, the file's section, or the shipped names.
    """
    given: dict[str, Any] = dict(_TABLE_11_TEXT) if stage == "text" else {"stage": stage}
    if file is not None:
        given |= _section(find_config(file), stage)
    given |= {key: value for key, value in (overrides or {}).items() if value is not None}
    known = {field.name for field in fields(StageConfig)}
    unknown = sorted(given.keys() - known)
    if unknown:
        where = f"{file}: " if file is not None else ""
        raise UsageError(f"{where}unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
    given["subsets"] = tuple(given.get("subsets") or SUBSETS)
    if isinstance(given.get("learning_rate"), str):  # YAML reads 4e-5 as a word
        given["learning_rate"] = float(given["learning_rate"])
    return StageConfig(**given)


def shipped() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def find_config(file: str | Path) -> Path:
    path = Path(file)
    if path.is_file():
        return path
    if str(file) in shipped():
        return CONFIGS / f"{file}.yaml"
    raise UsageError(f"no configuration {str(file)!r}: expected a file, or {', '.join(shipped())}")


def _section(file: Path, stage: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content.keys() <= {*STAGES, "about"}:
        raise UsageError(f"{file}: expected the sections text and score (and about)")
    if stage not in content:
        raise UsageError(f"{file} has no {stage} stage")
    section = content[stage] or {}
    if not isinstance(section, dict) or "stage" in section:
        raise UsageError(f"{file}: expected fields under {stage}, got {section!r}")
    return section


def _check_type(name: str, wanted: str, value: object) -> None:
    """Annotations are strings here; what YAML gave must fit them."""
    fits = {
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str | None": value is None or isinstance(value, str),
        "tuple[str, ...]": isinstance(value, tuple),
    }
    if not fits[wanted]:
        raise UsageError(f"{name}: expected {wanted}, got {value!r}")
