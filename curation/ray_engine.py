"""The pipeline on Ray Data, for fleets: actors hold the model, this process keeps what they answer.

An actor that dies is started again and its images are given to another. What has arrived is in the
store, so that a run that ends early goes on where it was; Ray Data takes no more images in than the
actors and this process keep up with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ..artimuse_core.engines import default_threads
from ..artimuse_core.errors import ModelError, UsageError
from ..artimuse_core.images import one_line
from ..artimuse_core.scorer import ModelSpec, locate
from .fingerprint import model_fingerprint
from .pipeline import Answer, LocalEngine, Recall
from .sources import Source, absolute
from .store import Store, Wanted

BLOCK = 64
"""Images that travel together; what a dying actor had of them is done again."""


@dataclass(frozen=True)
class Described:
    """What a loaded model says of itself."""

    name: str
    device: str
    card: str
    embeds: bool
    fingerprint: str


class _Actor:
    """Scores blocks of images, in a process of Ray's."""

    def __init__(self, spec: ModelSpec, wanted: Wanted) -> None:
        self._engine = LocalEngine(spec.scorer(), spec.batch_size)
        self._wanted = wanted

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        sources = [pickle.loads(item) for item in block["item"]]
        # What is remembered, only the process that started us knows.
        answers = self._engine.answers(sources, self._wanted, lambda pixels: None)
        return {"item": np.array([pickle.dumps(answer) for answer in answers], object)}


class RayEngine:
    """Reads and scores on the actors of a cluster; see :class:`.pipeline.Engine`.

    Until :meth:`close`, what this process prints goes to stderr: Ray says on stdout that
    actors died, in the midst of results.
    """

    def __init__(self, spec: ModelSpec, *, address: str | None = None, actors: int = 1) -> None:
        """Join the cluster at ``address`` (``RAY_ADDRESS``), or start one on this machine.

        Loads the model once, on the cluster, to know its name. Raises UsageError, ModelError.
        """
        self._spec, self._actors = spec, actors
        self._redirected = contextlib.ExitStack()
        self._redirected.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            self.described = self._join(address)
        except BaseException:
            self.close()
            raise

    def _join(self, address: str | None) -> Described:
        if not ray.is_initialized():
            where = address or os.environ.get("RAY_ADDRESS", "local")
            own: dict[str, Any] = {}
            if where == "local":  # room for all actors, and nothing that a run has no use for
                own = {"num_cpus": max(self._actors, default_threads()), "include_dashboard": False}
            try:
                ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **own)
            except Exception as error:  # a node that does not start raises no better
                reason = one_line(error)
                raise UsageError(f"cannot join a Ray cluster at {where}: {reason}") from error
        task = ray.remote(_describe).options(**self._resources())
        try:
            described: Described = ray.get(task.remote(self._spec))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (UsageError, ModelError)):
                raise cause from error
            reason = one_line(cause)
            raise ModelError(f"the cluster cannot load the model: {reason}") from error
        return described

    @property
    def name(self) -> str:
        return self.described.name

    @property
    def max_pixels(self) -> int:
        return self._spec.max_pixels

    def answers(
        self, sources: Sequence[Source], wanted: Wanted, recall: Recall
    ) -> Iterator[Answer]:
        if not sources:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        # Absolute, for actors work in folders of their own; as they were given, for the records.
        given = {absolute(str(source)): source for source in sources}
        items = [s.absolute() if isinstance(s, Path) else s for s in sources]
        blocks = ray.data.from_items(
            [pickle.dumps(item) for item in items], override_num_blocks=-(-len(items) // BLOCK)
        )
        answers = blocks.map_batches(
            _Actor,
            fn_constructor_args=(self._spec, wanted),
            batch_size=BLOCK,
            compute=ray.data.ActorPoolStrategy(size=self._actors),
            max_restarts=-1,
            max_task_retries=-1,
            **self._resources(),
        )
        for row in answers.iter_rows():
            answer: Answer = pickle.loads(row["item"])
            yield dataclasses.replace(answer, source=given[str(answer.source)])

    def _resources(self) -> dict[str, float]:
        gpu = self._spec.device.startswith("cuda")
        return {"num_cpus": 1, "num_gpus": 1 if gpu else 0}

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray.shutdown()
        self._redirected.close()


def _describe(spec: ModelSpec) -> Described:
    scorer, store = spec.scorer(), Store(None)
    fingerprint = model_fingerprint(
        scorer, locate(spec.model), store, dtype=spec.dtype, quantize=spec.quantize
    )
    store.close()
    return Described(scorer.name, scorer.engine.device, scorer.card, scorer.embeds, fingerprint)
