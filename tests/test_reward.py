import io

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.errors import ImageInputError, UsageError
from artimuse.artimuse_core.reward import Reward
from artimuse.artimuse_core.reward_combine import CombinedReward, Gate, Term
from artimuse.artimuse_core.reward_scales import Percentile, ZScore

from .conftest import python
from .fakes import brightness_scorer

LEVELS = (20, 80, 50)


def grey(percent: float) -> Image.Image:
    return Image.new("RGB", (16, 16), (round(percent * 2.55),) * 3)


def reward(**options) -> Reward:
    return Reward(brightness_scorer(), **options)


def batch(layout: str):
    """Three grey images of LEVELS percent, as trainers hold them."""
    nchw = torch.stack([torch.full((3, 16, 16), level / 100) for level in LEVELS])
    return {
        "NCHW floats": nchw,
        "NCHW bf16": nchw.bfloat16(),
        "NHWC floats": nchw.permute(0, 2, 3, 1),
        "NHWC uint8 array": (nchw * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        "list of CHW": list(nchw),
        "PIL": [grey(level) for level in LEVELS],
    }[layout]


@pytest.mark.parametrize(
    "layout",
    ["NCHW floats", "NCHW bf16", "NHWC floats", "NHWC uint8 array", "list of CHW", "PIL"],
)
def test_every_layout_gives_the_same_rewards_as_a_float_tensor(layout: str) -> None:
    rewards = reward()(batch(layout), ["a", "b", "c"], [{}, {}, {}])
    assert isinstance(rewards, torch.Tensor)
    assert rewards.dtype == torch.float32
    np.testing.assert_allclose(rewards, LEVELS, atol=0.5)


def test_output_can_be_chosen_and_needs_no_torch() -> None:
    assert isinstance(reward(output="numpy")(batch("PIL")), np.ndarray)
    code = (
        "from artimuse import Reward; from PIL import Image\n"
        "print(type(Reward()(Image.new('RGB', (9, 9)))).__name__, 'torch' in sys.modules)"
    )
    assert python(code).split() == ["ndarray", "False"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [20, 80, 50]),
        ({"scale": "unit"}, [0.2, 0.8, 0.5]),
        ({"scale": 0.1, "shift": -5}, [-3, 3, 0]),
        ({"scale": "zscore", "reference": [40, 60]}, [-3, 3, 0]),
        ({"scale": "percentile", "reference": [30, 40, 60, 70]}, [0, 1, 0.5]),
        ({"scale": lambda scores: scores**2}, [400, 6400, 2500]),
    ],
)
def test_scales(options, expected) -> None:
    np.testing.assert_allclose(reward(**options)(batch("PIL")), expected, rtol=0.02, atol=0.06)


def test_percentiles_rise_with_the_score_and_share_ties() -> None:
    scale = Percentile([10, 20, 20, 30])
    assert scale(np.array([5, 20, 35], np.float32)).tolist() == [0, 0.5, 1]
    curve = scale(np.linspace(0, 100, 50, dtype=np.float32))
    assert (np.diff(curve) >= 0).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scale": "zscore"}, "needs reference"),
        ({"scale": "zscore", "reference": [3, 3]}, "varies"),
        ({"scale": "unit", "reference": [1, 2]}, "takes no reference"),
        ({"scale": "percentile", "reference": [1, 2], "shift": 1}, "takes no shift"),
        ({"scale": "logarithm"}, "unknown scale"),
        ({"scale": float("nan")}, "finite"),
        ({"output": "jax"}, "unknown output"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        reward(**options)


def test_a_failed_image_is_nan_with_a_logged_reason_and_harms_no_other(tmp_path, caplog) -> None:
    images = [grey(50), tmp_path / "missing.png", b"not an image", grey(80)]
    answer = reward(scale="unit").evaluate(images)
    assert np.isnan(answer.values).tolist() == [False, True, True, False]
    assert [error is None for error in answer.errors] == [True, False, False, True]
    reward()(images)
    assert "no reward for image 1 of 4: cannot read the file" in caplog.text


def test_an_image_of_nan_pixels_fails_alone() -> None:
    images = batch("NCHW floats").clone()
    images[1, 0, 3, 3] = float("nan")
    answer = reward().evaluate(images)
    assert np.isnan(answer.values).tolist() == [False, True, False]
    assert "not finite" in answer.errors[1]


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.rand(2, 3, 8, 8) * 255, "expected floats in 0..1"),
        (torch.rand(2, 4, 64, 64), "latents"),
        (torch.rand(2, 16, 64, 64), "latents"),
        (torch.rand(2, 3, 8, 8, 8), "expected"),
        (7, "expected paths"),
    ],
)
def test_a_wrong_call_raises_instead_of_guessing(images, reason: str) -> None:
    with pytest.raises(ImageInputError, match=reason):
        reward()(images)


def test_no_images_give_no_rewards() -> None:
    assert reward()([]).shape == (0,)


# --- combinations ---


def constant(*values: float):
    return lambda images, prompts, metadata: torch.tensor(values)


def test_combination_weighs_and_sums() -> None:
    combined = CombinedReward(
        {"beauty": Term(reward(scale="unit"), 0.5), "clip": Term(constant(1, 2, 3), 2)}
    )
    np.testing.assert_allclose(combined(batch("PIL")), [2.1, 4.4, 6.25], atol=0.01)


def test_below_the_quality_floor_aesthetics_earns_nothing() -> None:
    combined = CombinedReward(
        {"beauty": Term(reward()), "quality": Term(constant(0.9, 0.1, 0.5), 10)},
        gates=[Gate("quality", floor=0.5, closes=("beauty",))],
    )
    answer = combined.evaluate(batch("PIL"))
    np.testing.assert_allclose(answer.values, [29, 1, 55], atol=0.5)
    np.testing.assert_allclose(answer.scores, [29, 81, 55], atol=0.5)


def test_terms_receive_prompts_and_metadata_and_may_answer_pairs() -> None:
    seen = []

    def trainers_own(images, prompts, metadata):
        seen.append((prompts, metadata))
        return [1.0, 2.0, 3.0], {"detail": 1}

    CombinedReward({"own": Term(trainers_own)})(batch("PIL"), ["a", "b", "c"], {"k": 1})
    assert seen == [(["a", "b", "c"], {"k": 1})]


@pytest.mark.parametrize("gates", [(), (Gate("clip", 0.5),)])
def test_a_term_without_a_value_makes_nan_and_is_named(gates) -> None:
    combined = CombinedReward(
        {"beauty": Term(reward()), "clip": Term(constant(1, float("nan"), 1))}, gates
    )
    answer = combined.evaluate([grey(10), grey(20), b"broken"])
    assert np.isnan(answer.values).tolist() == [False, True, True]
    assert answer.errors[1] == "clip: the reward function gave no number"
    assert answer.errors[2].startswith("beauty: not an image")


def test_combinations_nest() -> None:
    inner = CombinedReward({"beauty": Term(reward(), 2)})
    outer = CombinedReward({"inner": Term(inner), "one": Term(constant(1, 1, 1))})
    np.testing.assert_allclose(outer(batch("PIL")), [41, 161, 101], atol=1)


def test_combinations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        CombinedReward({})
    with pytest.raises(UsageError, match="names ghost; known: a"):
        CombinedReward({"a": Term(reward())}, [Gate("ghost", 1)])
    with pytest.raises(UsageError, match="different numbers"):
        CombinedReward({"a": Term(reward()), "b": Term(constant(1))})(batch("PIL"))
    with pytest.raises(UsageError, match="finite weight"):
        Term(reward(), float("inf"))


def test_png_bytes_and_their_pixels_earn_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "PNG")
    assert reward()(file.getvalue()) == reward()(pixels)


def test_zscore_of_scores() -> None:
    assert ZScore.against([40, 60]) == ZScore(50, 10)
