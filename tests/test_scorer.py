import math
import threading

import numpy as np
import pytest
from PIL import Image

from artimuse.artimuse_core.errors import ImageError, ImageInputError, UsageError
from artimuse.artimuse_core.results import ScoreResult
from artimuse.artimuse_core.scorer import Scorer

from .fakes import BrightnessEngine, brightness_scorer


def grey(percent: float) -> Image.Image:
    return Image.new("RGB", (20, 20), (round(percent * 2.55),) * 3)


def test_scores_come_in_order_over_several_batches() -> None:
    scorer = brightness_scorer()
    results = scorer.score([grey(p) for p in range(0, 100, 5)], batch_size=8)
    assert [round(r.score) for r in results] == list(range(0, 100, 5))
    assert scorer.engine.batches == [8, 8, 4]
    assert all(r.ok and r.model == "brightness" and r.probs.shape == (101,) for r in results)


def test_one_image_gives_a_list_of_one() -> None:
    (result,) = brightness_scorer().score(grey(30))
    assert result.score == pytest.approx(30, abs=0.3)


def test_a_bad_image_keeps_its_place_and_ends_nothing(tmp_path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    results = brightness_scorer().score([grey(10), bad, grey(20), tmp_path / "missing.png"])
    assert [r.ok for r in results] == [True, False, True, False]
    assert "not an image" in results[1].error
    assert math.isnan(results[1].score)
    assert "No such file" in results[3].error


def test_wrong_shapes_raise_before_anything_is_scored() -> None:
    scorer = brightness_scorer()
    with pytest.raises(ImageInputError):
        scorer.score([grey(10), np.zeros(5)])
    assert scorer.engine.batches == []


def test_a_failing_batch_is_tried_one_by_one(caplog) -> None:
    scorer = brightness_scorer(fail_batches=True)
    results = scorer.score([grey(p) for p in (10, 20, 30)])
    assert [round(r.score) for r in results] == [10, 20, 30]
    assert "going one by one" in caplog.text


def test_an_image_answered_with_nan_fails_alone() -> None:
    results = brightness_scorer(poison=50).score([grey(p) for p in (10, 50, 90)])
    assert [r.ok for r in results] == [True, False, True]
    assert "not finite" in results[1].error


def test_stream_holds_a_bounded_number_of_images() -> None:
    prepared, consumed, ahead = 0, 0, []
    lock = threading.Lock()

    def prepare(value: int) -> tuple[Image.Image, int]:
        nonlocal prepared
        with lock:
            prepared += 1
        return grey(value), value * 2

    for scored in brightness_scorer().stream(iter([50] * 200), prepare, batch_size=4, workers=2):
        assert scored.facts == 100
        consumed += 1
        ahead.append(prepared - consumed)
    assert consumed == 200
    assert max(ahead) <= 2 * 4 + 2


def test_leaving_a_stream_early_stops_its_threads() -> None:
    before = threading.active_count()
    stream = brightness_scorer().stream([50] * 100, lambda v: (grey(v), None), workers=3)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_programming_error_in_prepare_is_not_swallowed() -> None:
    def broken(value: int) -> tuple[Image.Image, None]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(brightness_scorer().stream([1], broken))


def test_prepare_may_fail_one_source() -> None:
    def prepare(value: int) -> tuple[Image.Image, None]:
        if value == 50:
            raise ImageError("half-written")
        return grey(value), None

    results = [s.result for s in brightness_scorer().stream([10, 50, 90], prepare)]
    assert [r.error for r in results] == [None, "half-written", None]


def test_no_images_give_no_results() -> None:
    assert brightness_scorer().score([]) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "no-such-model"}, "unknown model"),
        ({"device": "abacus"}, "unknown device"),
        ({"dtype": "fp12"}, "unknown dtype"),
        ({"backend": "abacus"}, "unknown backend"),
        ({"dtype": "fp16"}, "computes in fp32"),
    ],
)
def test_load_refuses_what_makes_no_sense(options: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Scorer.load(**options)


def test_max_pixels_holds_for_every_kind_of_image() -> None:
    scorer = Scorer(BrightnessEngine(), name="b", input_size=16, max_pixels=100)
    assert "over the limit" in scorer.score(grey(10))[0].error


def test_what_prepare_knows_already_is_not_scored_and_keeps_its_place() -> None:
    scorer = brightness_scorer()
    known = ScoreResult(77.0, 1.0, "brightness")

    def prepare(value: int) -> tuple[Image.Image | ScoreResult, int]:
        return (known if value == 50 else grey(value)), value

    scored = list(scorer.stream([10, 50, 90], prepare))
    assert [round(s.result.score) for s in scored] == [10, 77, 90]
    assert [s.facts for s in scored] == [10, 50, 90]
    assert scorer.engine.batches == [2]
