import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from artimuse.artimuse_core.batching import Batcher, QueueFullError
from artimuse.artimuse_core.errors import ImageInputError, UsageError
from artimuse.artimuse_core.reward import Reward, Rewards

from .fakes import brightness_scorer


class Echo:
    """The reward of a number is the number; None fails alone, a string fails its whole batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def evaluate(self, images, prompts=None, metadata=None) -> Rewards:
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append(len(images))
        if any(isinstance(image, str) for image in images):
            raise ImageInputError("no such layout")
        values = np.array([np.nan if i is None else i for i in images], np.float32)
        errors = tuple("broken" if i is None else None for i in images)
        return Rewards(values, errors, values, values, values)


@pytest.fixture
def closing():
    """Closes what a test opened."""
    opened: list[Batcher] = []
    yield lambda *args, **options: opened.append(Batcher(*args, **options)) or opened[-1]
    for batcher in opened:
        batcher.close()


def test_nothing_is_lost_or_swapped_between_many_callers(closing) -> None:
    echo = Echo()
    batcher = closing(echo, max_batch=7, max_wait_s=0.002, max_queue=100_000)

    def caller(seed: int) -> bool:
        generator = random.Random(seed)
        for _ in range(20):
            images = [generator.random() for _ in range(generator.randint(1, 20))]
            items = batcher.submit(images).result(10)
            if [item.value for item in items] != pytest.approx(images, abs=1e-6):
                return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(caller, range(32)))
    assert max(echo.batches) <= 7
    assert np.mean(echo.batches) > 3, "callers share batches"


def test_a_lone_image_waits_no_longer_than_the_bound(closing) -> None:
    batcher = closing(Echo(), max_batch=64, max_wait_s=0.05)
    start = time.perf_counter()
    assert batcher.submit([3]).result(10)[0].value == 3
    assert time.perf_counter() - start < 1


def test_one_image_fails_alone_and_one_bad_request_fails_alone(closing) -> None:
    echo = Echo()
    echo.gate.clear()
    batcher = closing(echo, workers=1, max_wait_s=0.2)
    good, partly, bad = batcher.submit([1, 2]), batcher.submit([3, None]), batcher.submit(["x"])
    echo.gate.set()
    assert [item.value for item in good.result(10)] == [1, 2]
    assert [item.error for item in partly.result(10)] == [None, "broken"]
    with pytest.raises(ImageInputError, match="no such layout"):
        bad.result(10)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(closing) -> None:
    echo = Echo()
    echo.gate.clear()
    batcher = closing(echo, workers=1, max_batch=2, max_queue=4)
    first = batcher.submit([1, 2])
    while batcher.waiting:  # until the worker holds them
        time.sleep(0.001)
    waiting = batcher.submit([3, 4, 5])
    with pytest.raises(QueueFullError) as full:
        batcher.submit([6, 7])
    assert full.value.retry_after_s >= 1
    echo.gate.set()
    assert len(first.result(10)) == 2
    assert [item.value for item in waiting.result(10)] == [3, 4, 5]
    assert batcher.submit([6, 7]).result(10)[1].value == 7


def test_images_nobody_waits_for_are_not_evaluated(closing) -> None:
    echo = Echo()
    echo.gate.clear()
    batcher = closing(echo, workers=1, max_batch=1)
    first = batcher.submit([1])
    while batcher.waiting:
        time.sleep(0.001)
    dropped, last = batcher.submit([2]), batcher.submit([3])
    assert dropped.cancel()
    echo.gate.set()
    assert first.result(10)[0].value == 1
    assert last.result(10)[0].value == 3
    assert echo.batches == [1, 1]


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    batcher = Batcher(Echo(seconds=0.01), max_batch=1)
    futures = [batcher.submit([index]) for index in range(20)]
    batcher.close()
    assert [future.result(0)[0].value for future in futures] == list(range(20))
    with pytest.raises(UsageError, match="closed"):
        batcher.submit([1])


def test_no_images_are_answered_at_once(closing) -> None:
    assert closing(Echo()).submit([]).result(0) == []


def test_a_real_reward_answers_with_scores_and_reasons(closing) -> None:
    batcher = closing(Reward(brightness_scorer(), scale="unit"))
    image, broken = batcher.submit([Image.new("RGB", (9, 9), "white"), b"x"]).result(10)
    assert (round(image.value, 2), round(image.score), image.error) == (1, 100, None)
    assert np.isnan(broken.value)
    assert broken.error.startswith("not an image")


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="max_batch"):
        Batcher(Echo(), max_batch=0)
