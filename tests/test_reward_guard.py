import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from artimuse.artimuse_core.errors import UsageError
from artimuse.artimuse_core.reward import Reward
from artimuse.artimuse_core.reward_guard import NAMES, DriftGuard, measure

from .fakes import brightness_scorer
from .probes import OF_ONE_PICTURE, PROBES, natural


@pytest.fixture(scope="module")
def clean() -> list[Image.Image]:
    return natural(24)


def learned(images, **options) -> DriftGuard:
    guard = DriftGuard(reference_images=len(images), **options)
    guard.watch([guard.measure(image) for image in images])
    return guard


@pytest.mark.parametrize("name", OF_ONE_PICTURE)
def test_a_single_picture_shows_the_cheat(clean, name: str) -> None:
    change, trait = PROBES[name]
    guard = DriftGuard()
    told = [trait in guard.flags(guard.measure(change(image))) for image in clean]
    assert np.mean(told) >= 0.8


def test_clean_pictures_are_left_alone(clean) -> None:
    guard = DriftGuard()
    assert np.mean([bool(guard.flags(guard.measure(image))) for image in clean]) <= 0.05


@pytest.mark.parametrize("name", PROBES)
def test_a_batch_shows_the_cheat_as_drift(clean, name: str) -> None:
    change, trait = PROBES[name]
    guard = learned(clean[:16])
    _, warnings = guard.watch([guard.measure(change(image)) for image in clean[16:]])
    assert any(w.startswith(trait) and "has moved by +" in w for w in warnings), warnings


def test_a_batch_like_the_first_ones_gives_no_warning(clean) -> None:
    guard = learned(clean[:16], penalty=1)
    penalties, warnings = guard.watch([guard.measure(image) for image in clean[16:]])
    assert warnings == ()
    # Single pictures may be far out; with sixteen as the reference, a few are.
    assert (penalties == 0).mean() >= 0.7


def test_the_reference_is_the_first_pictures_and_does_not_follow_the_drift(clean) -> None:
    guard = learned(clean[:16])
    drifted = [guard.measure(PROBES["over-saturation"][0](image)) for image in clean]
    first = guard.watch(drifted)[1]
    for _ in range(5):
        guard.watch(drifted)
    assert guard.watch(drifted)[1] == first != ()


def test_the_size_of_a_picture_changes_little(clean) -> None:
    for image in clean[:4]:
        large = measure(image.resize((900, 700), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(large, measure(image), atol=0.12)


def test_reward_takes_the_penalty_off_and_says_so(clean, caplog) -> None:
    guard = DriftGuard(penalty=5)
    reward = Reward(brightness_scorer(), guard=guard)
    images = [clean[0], PROBES["white frame"][0](clean[0]), b"broken"]
    plain = Reward(brightness_scorer()).evaluate(images)
    guarded = reward.evaluate(images)
    assert guarded.penalties.tolist() == [0, 5, 0]
    np.testing.assert_allclose(guarded.scores, plain.scores)
    np.testing.assert_allclose(guarded.values, plain.values - [0, 5, 0])
    assert any("frame" in warning for warning in guarded.warnings)
    reward(images)
    assert "exceed the limit" in caplog.text


def test_penalties_are_bounded(clean) -> None:
    guard = learned(clean, penalty=10, max_penalty=12)
    ugly = PROBES["over-sharpening"][0](PROBES["grid"][0](PROBES["lettering"][0](clean[0])))
    penalties, _ = guard.watch([guard.measure(ugly)])
    assert penalties.tolist() == [12]


def test_limits_can_be_moved_and_switched_off(clean) -> None:
    framed = PROBES["white frame"][0](clean[0])
    assert "frame" in DriftGuard().flags(measure(framed))
    assert "frame" not in DriftGuard(limits={"frame": math.inf}).flags(measure(framed))
    assert "contrast" in DriftGuard(limits={"contrast": 0.0}).flags(measure(framed))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reference_images": 1}, "reference_images"),
        ({"drift_limit": 0}, "drift_limit"),
        ({"penalty": -1}, "penalty"),
        ({"limits": {"beauty": 1}}, r"unknown limits \['beauty'\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        DriftGuard(**options)


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_plain_pictures_are_measured_without_trouble(colour: str) -> None:
    values = measure(Image.new("RGB", (64, 40), colour))
    assert np.isfinite(values).all()
    assert values.shape == (len(NAMES),)


def test_threads_may_share_a_guard(clean) -> None:
    guard = DriftGuard(reference_images=24)
    rows = [guard.measure(image) for image in clean]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: guard.watch(rows[:10]), range(40)))
    _, warnings = guard.watch(rows[:10])
    assert warnings == ()
