import copy

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.differentiable import ArtiMuseMetric, DifferentiableReward
from artimuse.artimuse_core.errors import ImageInputError, ModelError, UsageError
from artimuse.artimuse_core.preprocess import preprocess
from artimuse.artimuse_core.scorer import Scorer
from artimuse.artimuse_core.torch_graph import build_graph


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint) -> DifferentiableReward:
    return DifferentiableReward.load(tiny_checkpoint, device="cpu", dtype="fp32")


def smooth(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, side, side) away from both ends of 0..1, where clamping has no kinks."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return 0.25 + 0.5 * large


@pytest.mark.parametrize("side", [32, 50, 97])
def test_pixel_values_are_the_preprocessors_without_rounding(tiny, side: int) -> None:
    levels = (torch.rand(1, 3, side, side) * 255).round()
    image = Image.fromarray(levels[0].permute(1, 2, 0).byte().numpy())
    ours = tiny.pixel_values(levels / 255)[0].numpy()
    # Pillow rounds after each of two passes: at most one level and a bit, 1/255/0.225 a level.
    assert np.abs(ours - preprocess(image, 32)).max() < 1.5 / 255 / 0.224


def test_scores_agree_with_the_scorer(tiny, tiny_checkpoint, pictures) -> None:
    scorer = Scorer.load(tiny_checkpoint, device="cpu")
    expected = [result.score for result in scorer.score(pictures[:8])]
    metric = ArtiMuseMetric(tiny)
    got = [float(metric(picture)) for picture in pictures[:8]]
    np.testing.assert_allclose(got, expected, atol=0.2)


def test_the_gradient_agrees_with_finite_differences(tiny) -> None:
    exact = copy.deepcopy(tiny).double()
    images = smooth(2, 45).double().requires_grad_(True)

    def score(x: torch.Tensor) -> torch.Tensor:  # forward() in fp64, which fp32 forbids
        size = exact.graph.input_size
        for sides in ((x.shape[2], size), (size, size)):
            x = torch.nn.functional.interpolate(x, sides, mode="bicubic", antialias=True)
        logits = exact.graph((x - exact.mean) / exact.std)
        return (logits.double().softmax(-1) @ exact.token_values).sum()

    tiny(images.float()).sum().backward()
    assert images.grad is not None
    direction = torch.randn(images.shape, dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        slope = (score(images + step * direction) - score(images - step * direction)) / (2 * step)
    assert float((images.grad * direction).sum()) == pytest.approx(float(slope), rel=0.01)


def test_the_fp32_gradient_agrees_with_a_coarse_difference_of_itself(tiny) -> None:
    images = smooth(1, 40, seed=3).requires_grad_(True)
    (gradient,) = torch.autograd.grad(tiny(images).sum(), images)
    direction = gradient / gradient.norm()
    step = 0.05
    with torch.no_grad():
        slope = (tiny(images + step * direction) - tiny(images - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=0.05)


def test_twenty_steps_of_ascent_raise_the_score_of_every_image(tiny) -> None:
    images = smooth(3, 48).requires_grad_(True)
    before = tiny(images).detach()
    optimizer = torch.optim.Adam([images], lr=0.01)
    loss_fn = tiny.loss_fn()
    for _ in range(20):
        loss, _ = loss_fn(images)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    after = tiny(images.clamp(0, 1)).detach()
    assert (after > before + 1).all(), (before, after)


def test_checkpointing_changes_neither_score_nor_gradient(tiny_checkpoint, tiny) -> None:
    plain = DifferentiableReward.load(
        tiny_checkpoint, device="cpu", dtype="fp32", checkpointing=False
    )
    images = smooth(2, 40).requires_grad_(True)
    for reward in (plain, tiny):
        assert torch.equal(plain(images), reward(images))
    grads = [torch.autograd.grad(r(images).sum(), images)[0] for r in (plain, tiny)]
    torch.testing.assert_close(*grads)


def saved_bytes(reward: DifferentiableReward, images: torch.Tensor) -> int:
    """What autograd keeps for the backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in reward.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept_alive = reward(images)
    del kept_alive
    return sum(kept.values())


def test_checkpointing_keeps_less_and_no_gradient_keeps_nothing(tiny_checkpoint, tiny) -> None:
    plain = DifferentiableReward.load(
        tiny_checkpoint, device="cpu", dtype="fp32", checkpointing=False
    )
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    assert saved_bytes(tiny, images) < saved_bytes(plain, images) / 2
    assert saved_bytes(plain, images.detach()) == 0
    assert not any(parameter.requires_grad for parameter in tiny.parameters())


def test_bf16_weights_give_fp32_rewards_and_gradients(tiny_checkpoint, tiny) -> None:
    half = DifferentiableReward.load(tiny_checkpoint, device="cpu", dtype="bf16")
    images = smooth(2, 40).requires_grad_(True)
    rewards = half(images)
    assert (half.dtype, rewards.dtype) == (torch.bfloat16, torch.float32)
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    (exact,) = torch.autograd.grad(tiny(images).sum(), images)
    assert gradient.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0)
    assert similarity > 0.97


def test_autocast_of_the_trainer_does_not_touch_the_reward(tiny) -> None:
    images = smooth(2, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = tiny(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, tiny(images))


def test_value_range_minus_one_to_one(tiny_checkpoint, tiny) -> None:
    signed = DifferentiableReward.load(
        tiny_checkpoint, device="cpu", dtype="fp32", value_range=(-1, 1), factor=0.01, shift=-1
    )
    images = smooth(2, 40)
    torch.testing.assert_close(signed(images * 2 - 1), tiny(images) * 0.01 - 1)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.rand(1, 3, 8, 8) * 255, "value_range"),
        (torch.rand(1, 3, 8, 8) * 4 - 2, "value_range"),
        (torch.rand(1, 8, 8, 3), r"\(B,3,H,W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "float tensor"),
    ],
)
def test_wrong_images_are_refused(tiny, images, reason: str) -> None:
    with pytest.raises(ImageInputError, match=reason):
        tiny(images)


def test_loss_is_minus_the_reward_or_the_distance_from_a_target(tiny) -> None:
    images = smooth(2, 40)
    loss, rewards = tiny.loss_fn(grad_scale=0.1)(images, ["a", "b"])
    torch.testing.assert_close(loss, -0.1 * rewards)
    loss, _ = tiny.loss_fn(target=100)(images)
    torch.testing.assert_close(loss, 100 - rewards)


def test_metric_is_called_like_pyiqas(tiny, tmp_path) -> None:
    images = smooth(2, 40).requires_grad_(True)
    scores = ArtiMuseMetric(tiny)(images)
    assert scores.shape == (2,)
    assert not scores.requires_grad
    loss = ArtiMuseMetric(tiny, as_loss=True, loss_weight=-1)(images)
    loss.backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert float(loss.detach()) == pytest.approx(-float(scores.mean()), rel=1e-5)
    assert ArtiMuseMetric(tiny).lower_better is False
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "a.png")
    assert ArtiMuseMetric(tiny)(str(tmp_path / "a.png")).shape == (1,)
    with pytest.raises(UsageError, match="loss_reduction"):
        ArtiMuseMetric(tiny, loss_reduction="median")


def test_a_folder_without_a_checkpoint_has_no_gradients(tmp_path) -> None:
    with pytest.raises(ModelError, match="ONNX bundle has none"):
        DifferentiableReward.load(tmp_path)


def test_the_graph_is_built_from_the_checkpoint_alone(tiny_checkpoint) -> None:
    graph, _ = build_graph(tiny_checkpoint)
    assert DifferentiableReward(graph, checkpointing=False).graph is graph
