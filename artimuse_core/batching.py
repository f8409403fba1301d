"""Batches across callers: many threads or coroutines ask for a few images, the model sees many.

Bounded: a full queue refuses at once instead of growing. Nothing is lost or swapped: each request
keeps its own places, whatever batches its images travel in.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import ArtiMuseError, UsageError
from .reward import Rewards

log = logging.getLogger(__name__)


class Evaluates(Protocol):
    """What a batcher serves: :class:`.reward.Reward` or a combination of rewards."""

    def evaluate(self, images: Any, prompts: Any = None, metadata: Any = None) -> Rewards: ...


class QueueFullError(ArtiMuseError):
    """Too many images wait already; ask again after ``retry_after_s`` seconds."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} images wait already; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class RewardItem:
    """The answer for one image; ``error`` is None or why ``value`` is NaN."""

    value: float
    score: float
    std: float
    error: str | None


@dataclass
class _Request:
    count: int
    future: Future[list[RewardItem]] = field(default_factory=Future)
    items: dict[int, RewardItem] = field(default_factory=dict)


_Place = tuple[_Request, int, Any]  # request, index within it, image


class Batcher:
    """Serves one reward to many callers.

    Args:
        max_batch: images evaluated together, at most.
        max_wait_s: how long an incomplete batch waits for company.
        max_queue: images that may wait; more are refused with QueueFullError.
        workers: threads that evaluate; two keep the model busy while one decodes.
        on_batch: told the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        reward: Evaluates,
        *,
        max_batch: int = 32,
        max_wait_s: float = 0.005,
        max_queue: int = 1024,
        workers: int = 2,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
            if value < 1:
                raise UsageError(f"expected {name} of at least 1, got {value}")
        self.reward = reward
        self.max_batch, self.max_wait_s, self.max_queue = max_batch, max_wait_s, max_queue
        self._on_batch = on_batch
        self._places: deque[_Place] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._rate = 0.0  # images per second, smoothed
        self._threads = [
            threading.Thread(target=self._work, name=f"artimuse-batch-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._places)

    def submit(self, images: Sequence[Any]) -> Future[list[RewardItem]]:
        """One answer per image, in order. Cancel the future to take back what still waits.

        Raises QueueFullError, without taking any, if not all fit, and UsageError once closed.
        """
        request = _Request(len(images))
        if not images:
            request.future.set_result([])
            return request.future
        with self._changed:
            if self._closing:
                raise UsageError("the batcher is closed")
            if len(self._places) + len(images) > self.max_queue:
                raise QueueFullError(len(self._places), self._retry_after_s())
            self._places.extend((request, index, image) for index, image in enumerate(images))
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Answer everything that waits, then stop. Further calls are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _retry_after_s(self) -> int:
        return min(60, max(1, math.ceil(len(self._places) / self._rate))) if self._rate else 1

    def _work(self) -> None:
        while batch := self._next_batch():
            start = time.perf_counter()
            self._evaluate(batch)
            seconds = time.perf_counter() - start
            rate = len(batch) * len(self._threads) / max(seconds, 1e-6)
            self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
            if self._on_batch is not None:
                self._on_batch(len(batch), seconds)

    def _next_batch(self) -> list[_Place]:
        """Up to ``max_batch`` places; empty when closed and done."""
        with self._changed:
            while True:
                while not self._places and not self._closing:
                    self._changed.wait()
                self._wait_for_company()
                batch: list[_Place] = []
                while self._places and len(batch) < self.max_batch:
                    place = self._places.popleft()
                    if not place[0].future.cancelled():
                        batch.append(place)
                if self._places:
                    self._changed.notify()
                if batch or self._closing:
                    return batch
                # Another worker was faster, or all callers went away.

    def _wait_for_company(self) -> None:
        deadline = time.monotonic() + self.max_wait_s
        while 0 < len(self._places) < self.max_batch and not self._closing:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _evaluate(self, batch: list[_Place]) -> None:
        try:
            rewards = self.reward.evaluate([image for _, _, image in batch])
        except Exception as error:
            self._evaluate_apart(batch, error)
            return
        for place, value, score, std, reason in zip(
            batch, rewards.values, rewards.scores, rewards.stds, rewards.errors, strict=True
        ):
            request, index, _ = place
            request.items[index] = RewardItem(float(value), float(score), float(std), reason)
            if len(request.items) == request.count:
                _settle(request.future, [request.items[i] for i in range(request.count)])

    def _evaluate_apart(self, batch: list[_Place], error: Exception) -> None:
        """One request's fault must not fail the others that share its batch."""
        requests = list({id(request): request for request, _, _ in batch}.values())
        if len(requests) == 1:
            if not isinstance(error, ArtiMuseError):
                log.error("evaluating %d images failed", len(batch), exc_info=error)
            _settle(requests[0].future, error)
            return
        for request in requests:
            self._evaluate([place for place in batch if place[0] is request])


def _settle(future: Future[list[RewardItem]], answer: list[RewardItem] | Exception) -> None:
    try:
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    except InvalidStateError:  # cancelled meanwhile: nobody waits
        log.debug("an answer came after its request was taken back")
