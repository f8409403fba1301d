"""The two stages (paper Sec. 4.3, App. D.1): ``run_stage`` from a base model to an adapter.

transformers' Trainer does the work, and with it ``accelerate`` (DDP, FSDP, DeepSpeed); peft makes
the LoRA layers. Here is what is ours: which samples, which weights, which files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, TrainingArguments, set_seed

from ..artimuse_core import adapter, checkpoint
from ..artimuse_core.answers import answer_ids
from ..artimuse_core.errors import MissingExtraError, ModelError, UsageError
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.models import locate
from ..artimuse_core.prompts import system_message
from ..artimuse_core.score_tokens import ScoreTokens, strategy
from ..artimuse_core.torch_graph import graph_over, pick_device, pick_dtype
from . import strategies
from .arguments import StageConfig
from .collate import Collator, Decoder, Items, Run, score_items, text_items
from .datasets.base import Scale
from .learning import count, learning, prepare
from .losses import ScoreLoss
from .outcome import Trained, write_merged, write_model
from .report import write_report
from .sources import Parts, load_parts, with_scores, with_texts
from .stage_trainer import (
    MarkWhole,
    Say,
    StageTrainer,
    correlations,
    drop_broken,
    last_whole,
)

_log = logging.getLogger(__name__)

FIGURES = "figures.json"
_RUN = "run.json"
_CHECKPOINTS = "checkpoints"
_BASE = "base"


@dataclass(frozen=True)
class Data:
    """What ``--data`` and its relatives say."""

    sources: Sequence[str]
    """For :func:`.datasets.load_source`, optionally behind ``SUBSET=``."""
    validation: Sequence[str] = ()
    texts: Sequence[str] = ()
    """Score stage: critiques to watch the loss of, or to learn as well (``joint``)."""
    images: Path | None = None
    scale: Scale | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    directory: Path
    figures: dict[str, Any]
    """As in ``figures.json``: ``figures`` by name, ``failed`` images, and how they came about."""
    main: bool = True
    """Whether this is the process that speaks for all."""


def run_stage(
    model: str | Path,
    data: Data,
    output: Path,
    config: StageConfig,
    *,
    device: str = "auto",
    resume: bool = False,
    merge: bool = False,
) -> Outcome:
    """Train one stage and write ``output``, which ``Scorer.load`` takes.

    ``model`` is anything :func:`..artimuse_core.models.locate` takes; an adapter is merged into
    its base first. ``resume`` goes on from the last whole checkpoint of the same run, or starts.
    ``merge`` also writes ``output/merged``, a checkpoint in transformers' native format.

    Under ``accelerate launch`` every process calls this. Raises UsageError for data, options or an
    ``output`` that make no sense, ModelError for a base that cannot be used.
    """
    place = pick_device(device)
    if ":" in device:
        raise UsageError(f"device {device!r}: choose among GPUs by CUDA_VISIBLE_DEVICES")
    processes = PartialState(cpu=place.type == "cpu")
    config.accumulation_over(processes.num_processes)
    parts = _parts(data, config)
    facts = {
        "model": str(model),
        "card": f"{config.stage} stage over {model}, {len(parts[0].train)} images",
        "config": config.as_dict(),
        "data": ", ".join(data.sources),
        "samples": {name: len(part) for name, part in vars(parts[0]).items()},
        "data_sha256": _hash(parts),
    }
    with processes.main_process_first():
        _claim(output, facts, resume)
        if (output / FIGURES).is_file():
            _log.warning("%s is finished already", output)
            figures = json.loads((output / FIGURES).read_text("utf-8"))
            return Outcome(output, figures, processes.is_main_process)
        base = _plain_base(model, output)
    return _Stage(config, base, parts, output, place, facts).run(merge=merge)


@dataclass
class _Stage:
    config: StageConfig
    base: Path
    """A checkpoint, not an adapter."""
    parts: tuple[Parts, Parts | None]
    """For the stage itself; texts beside scores."""
    output: Path
    place: torch.device
    facts: dict[str, Any]

    def run(self, *, merge: bool) -> Outcome:
        config, folder = self.config, self.output / _CHECKPOINTS
        set_seed(config.seed)
        tokenizer = checkpoint.load_tokenizer(self.base)
        official = checkpoint.read_config(self.base)
        tokens = (
            strategy(config.score_tokens)
            if config.stage == "score"
            else checkpoint.score_tokens(official)
        )
        # What learns is made fp32 afterwards.
        dtype = pick_dtype(config.precision, self.place)
        model = checkpoint.load_model(self.base, dtype)
        grown = strategies.expand_vocabulary(model, tokenizer, tokens)
        lora = prepare(model, config, grown)
        question = config.score_question or strategies.question(tokens, official)
        changed = _changed_config(official, config, tokens.name, question, model)

        decoder = Decoder(_side(model.config.vision_config.image_size), config.max_tiles)
        train, validation = self._items(tokens, tokenizer, question, decoder)
        run = Run(train, config.epochs, config.batch_size, config.seed)
        score_loss = _score_loss(config, tokens, tokenizer)
        resumed = last_whole(folder)
        if PartialState().is_main_process and folder.is_dir():
            drop_broken(folder)
        trainer = StageTrainer(
            model=model,
            args=self._arguments(folder, run, fresh=resumed is None),
            train_dataset=run,
            eval_dataset=validation,
            data_collator=Collator(
                tokenizer,
                system_message(official),
                size=decoder.size,
                image_tokens=model.config.image_seq_length,
                max_length=config.max_length,
            ),
            compute_metrics=correlations(tokens),
            callbacks=[MarkWhole(), Say()],
            score_loss=score_loss,
            graph=self._graph(model, tokens, tokenizer, changed),
            epochs=config.epochs,
        )
        for printing in (PrinterCallback, ProgressCallback):  # both print to stdout
            trainer.remove_callback(printing)
        weights = learning(model)
        _log.info(
            "%s stage on %s: %d samples, %d to validate on; %.2f of %.2f million weights learn",
            config.stage, self.place, len(train), sum(map(len, validation.values())),
            count(weights.values()) / 1e6, count(model.parameters()) / 1e6,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        return self._finish(
            trainer, Trained(self.base, changed, tokenizer, lora), train, validation, merge=merge
        )

    def _items(
        self, tokens: Any, tokenizer: Any, question: str, decoder: Decoder
    ) -> tuple[Items, dict[str, Items]]:
        own, beside = self.parts
        if self.config.stage == "text":
            return (
                Items(text_items(with_texts(own.train), tokenizer), decoder),
                {"text": Items(text_items(with_texts(own.validation), tokenizer), decoder)},
            )

        def scored(samples: Sequence[Any]) -> list[Any]:
            return score_items(with_scores(samples), tokens, tokenizer, question)

        train = scored(own.train)
        validation = {"score": Items(scored(own.validation), decoder)}
        if beside is not None:
            if self.config.joint:
                train += text_items(with_texts(beside.train), tokenizer)
            texts = text_items(with_texts(beside.validation), tokenizer)
            validation["text"] = Items(texts, decoder)
        return Items(train, decoder), validation

    def _arguments(self, folder: Path, run: Run, *, fresh: bool) -> TrainingArguments:
        config = self.config
        dtype = pick_dtype(config.precision, self.place)
        steps = run.steps_per_epoch * config.epochs
        if config.tracker != "none" and find_spec(config.tracker) is None:
            raise MissingExtraError(config.tracker, "train")
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,  # the run holds all epochs
            per_device_train_batch_size=config.device_batch_size,
            per_device_eval_batch_size=config.device_batch_size,
            gradient_accumulation_steps=config.accumulation_over(PartialState().num_processes),
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(config.warmup_ratio * steps),
            weight_decay=config.weight_decay,
            bf16=dtype is torch.bfloat16,
            fp16=dtype is torch.float16,
            seed=config.seed,
            use_cpu=self.place.type == "cpu",
            logging_steps=config.log_every,
            save_strategy="steps",
            save_steps=config.save_every,
            save_total_limit=2,
            eval_strategy="steps",
            eval_steps=run.steps_per_epoch,
            eval_on_start=fresh,
            report_to=config.tracker,
            dataloader_num_workers=config.workers,
            dataloader_pin_memory=self.place.type == "cuda",
            remove_unused_columns=False,
            label_names=["labels"],
            ddp_find_unused_parameters=False,
            **(_recompute() if config.gradient_checkpointing else {}),
            **_logging_dir(self.output / "runs"),
        )
        if arguments.n_gpu > 1:
            # It would spread a batch over all it sees, and cut rows and tiles apart.
            _log.warning("training on one of %d GPUs; see accelerate launch", arguments.n_gpu)
            arguments._n_gpu = 1
        return arguments

    def _graph(
        self, model: Any, tokens: Any, tokenizer: Any, config: dict[str, Any]
    ) -> ScoringGraph | None:
        """What weighs answers in words, over the very modules that learn."""
        if tokens.single_token or self.config.stage == "text":
            return None
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise UsageError(f"{tokens.name} cannot be validated under FSDP; use DDP")
        return graph_over(model, config, tokenizer)[0]

    def _finish(
        self,
        trainer: StageTrainer,
        trained: Trained,
        train: Items,
        validation: dict[str, Items],
        *,
        merge: bool,
    ) -> Outcome:
        figures: dict[str, Any] = {}
        predicted = human = None
        for name, items in validation.items():
            answer = trainer.predict(items, metric_key_prefix=name)
            figures |= {
                key: value
                for key, value in answer.metrics.items()
                if key in (f"{name}_loss", f"{name}_srcc", f"{name}_plcc")
            }
            if name == "score":
                predicted = trained.tokens.readout(answer.predictions).score
                human = np.asarray(answer.label_ids)
        failed = _failed(trainer, [train, *validation.values()])
        state = trainer.accelerator.get_state_dict(trainer.model)
        facts = self.facts | {"figures": figures, "failed": list(failed)}
        if PartialState().is_main_process:
            history = trainer.state.log_history
            _write_json(self.output / "history.json", history)
            write_report(self.output / "report.png", history, predicted, human)
            write_model(self.output, trainer.model, state, trained, facts)
            if merge:
                write_merged(self.output, self.output / "merged")
            _write_json(self.output / FIGURES, facts)  # last: it says that the run is finished
            shutil.rmtree(self.output / _CHECKPOINTS, ignore_errors=True)
        PartialState().wait_for_everyone()
        return Outcome(self.output, facts, PartialState().is_main_process)


def _logging_dir(folder: Path) -> dict[str, Any]:
    """Where TensorBoard's files go: an argument in transformers 4, the environment in 5."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    known = "logging_dir" in TrainingArguments.__dataclass_fields__
    return {"logging_dir": str(folder)} if known else {}


def _recompute() -> dict[str, Any]:
    """Gradient checkpointing, under the name this transformers has for it."""
    known = TrainingArguments.__dataclass_fields__
    kind = "activation" if "activation_checkpointing" in known else "gradient"
    # Not reentrant: the frozen embeddings before the first block have no gradient.
    return {f"{kind}_checkpointing": True, f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}


def _parts(data: Data, config: StageConfig) -> tuple[Parts, Parts | None]:
    own = load_parts(
        data.sources, config, images=data.images, scale=data.scale, validation=data.validation
    )
    if config.joint and not data.texts:
        raise UsageError("joint training needs critiques as well: give --text-data")
    if config.stage == "text" or not data.texts:
        return own, None
    return own, load_parts(data.texts, config, images=data.images)


def _claim(output: Path, facts: dict[str, Any], resume: bool) -> None:
    """Make ``output`` this run's, or see that it is this run's already."""
    file = output / _RUN
    if file.is_file():
        if not PartialState().is_main_process and not resume:
            return  # the main process has just made it
        before = json.loads(file.read_text("utf-8"))
        if not resume:
            what = "a finished" if (output / FIGURES).is_file() else "an interrupted"
            raise UsageError(
                f"{output} holds {what} run; choose another directory, or go on with --resume"
            )
        for key, value in facts.items():
            if before.get(key) != value:
                raise UsageError(
                    f"{output} was begun with another {key}; resume with the same, "
                    "or choose another directory"
                )
        return
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} exists and is not empty; choose another directory")
    output.mkdir(parents=True, exist_ok=True)
    _write_json(file, facts)


def _plain_base(model: str | Path, output: Path) -> Path:
    """The checkpoint to start from; an adapter's is merged and kept beside what it becomes."""
    directory = locate(model)
    if not adapter.is_adapter(directory):
        if not (directory / "config.json").is_file():
            raise ModelError(
                f"{directory} holds no checkpoint (no config.json), so there is nothing to train"
            )
        return directory
    merged = output / _BASE
    if not merged.is_dir():
        checkpoint.convert(directory, merged)
    return merged


def _changed_config(
    official: dict[str, Any], config: StageConfig, tokens: str, question: str, model: Any
) -> dict[str, Any]:
    """The base's ``config.json`` with what this stage makes of it."""
    changed: dict[str, Any] = json.loads(json.dumps(official))
    text = "llm_config" if checkpoint.is_official(changed) else "text_config"
    changed[text]["vocab_size"] = model.config.text_config.vocab_size
    changed[text]["tie_word_embeddings"] = changed["tie_word_embeddings"] = False
    if config.stage == "text" or config.joint:
        changed["critiques"] = True
    if config.stage == "score":
        changed |= {"score_tokens": tokens, "score_question": question}
        changed["max_tiles"] = config.max_tiles
    return changed


def _score_loss(config: StageConfig, tokens: ScoreTokens, tokenizer: Any) -> ScoreLoss | None:
    """What is special about score tokens; None in the text stage, which may know none."""
    if config.stage == "text":
        return None
    return ScoreLoss(
        ids=torch.tensor([ids[0] for ids in answer_ids(tokens, tokenizer)]),
        values=torch.tensor(tokens.values),
        soft_label=config.soft_label,
        ordinal=config.ordinal,
    )


def _failed(trainer: StageTrainer, parts: Sequence[Items]) -> tuple[str, ...]:
    """Images no process could read."""
    names = set()
    for items in parts:
        flags = trainer.accelerator.reduce(items.failed.int().to(trainer.args.device), "sum")
        names |= {str(items.items[i].image) for i in torch.nonzero(flags)[:, 0].tolist()}
    return tuple(sorted(names))


def _hash(parts: tuple[Parts, Parts | None]) -> str:
    """Of all samples in order: a resumed run must see the same ones."""
    digest = hashlib.sha256()
    for part in parts:
        for samples in vars(part).values() if part else ():
            for sample in samples:
                digest.update(json.dumps(sample.as_dict(), sort_keys=True).encode())
    return digest.hexdigest()


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
