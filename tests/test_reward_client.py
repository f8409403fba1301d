import json

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.client import RewardClient, RewardServerError
from artimuse.artimuse_core.errors import ImageInputError, UsageError
from artimuse.artimuse_core.reward import Reward
from artimuse.artimuse_core.reward_combine import CombinedReward, Term
from artimuse.artimuse_core.scorer import Scorer

from .conftest import python
from .fakes import brightness_scorer
from .serving import file_of, serving


@pytest.fixture(scope="module")
def served(tiny_checkpoint):
    """A tiny real model, in process and behind a server."""
    reward, remote = (
        Reward(Scorer.load(tiny_checkpoint, "cpu"), scale="unit", output=output)
        for output in ("torch", "numpy")
    )
    with serving(remote) as url:
        yield reward, url


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_the_same_numbers_as_in_process_on_every_kind_of_image(
    served, tmp_path, image_format: str
) -> None:
    reward, url = served
    pixels = noise(5, 40, 50, 3)
    (tmp_path / "a.jpg").write_bytes(file_of(pixels[0], "JPEG"))
    kinds = {
        "JPEG bytes": [file_of(p, "JPEG") for p in pixels],
        "path": [tmp_path / "a.jpg", str(tmp_path / "a.jpg")],
        "PIL": [Image.fromarray(p) for p in pixels],
        "PIL with alpha": Image.fromarray(noise(9, 9, 4)),
        "NHWC uint8": pixels,
        "NCHW floats": torch.from_numpy(pixels / 255).permute(0, 3, 1, 2).float(),
        "bf16": torch.rand(2, 3, 30, 30).bfloat16(),
    }
    with RewardClient(url, image_format=image_format, images_per_request=2) as client:
        for kind, images in kinds.items():
            here, there = reward(images), client(images)
            # The same pixels; the model's last bits depend on who shares its batch.
            torch.testing.assert_close(here, there, atol=1e-6, rtol=0, msg=kind)


def test_failures_have_the_same_places_and_reasons(served, tmp_path) -> None:
    reward, url = served
    broken = torch.full((3, 8, 8), float("nan"))
    images = [noise(9, 9, 3), b"not an image", tmp_path / "missing.png", broken, noise(8, 8, 3)]
    with RewardClient(url) as client:
        here, there = reward.evaluate(images), client.evaluate(images)
    assert here.errors == there.errors
    np.testing.assert_allclose(here.values, there.values, atol=1e-6)
    np.testing.assert_allclose(here.stds, there.stds, atol=1e-4)


def test_a_client_is_a_term_of_a_combination(served) -> None:
    reward, url = served
    images = list(noise(3, 20, 20, 3))
    with RewardClient(url) as client:
        combined = CombinedReward({"remote": Term(client, 2), "local": Term(reward, -1)})
        np.testing.assert_allclose(combined(images), reward(images), rtol=1e-5)


def test_wrong_images_raise_before_anything_is_sent() -> None:
    with RewardClient("http://127.0.0.1:9", patience_s=0) as client:
        with pytest.raises(ImageInputError, match="latents"):
            client(torch.rand(2, 4, 64, 64))
        with pytest.raises(ImageInputError, match=r"floats in 0\.\.1"):
            client(torch.rand(2, 3, 8, 8) * 255)
        assert client([]).shape == (0,)


def answers(*responses: httpx.Response):
    """A transport that gives these answers in turn, then scores every image as 0.5."""
    left = list(responses)
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if left:
            return left.pop(0)
        count = len(json.loads(request.content)["requests"])
        result = {"artimuse": {"score": 0.5, "std": 0.1}}
        return httpx.Response(200, json={"results": [result] * count, "errors": [{}] * count})

    return httpx.MockTransport(handle), seen


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("artimuse.artimuse_core.client.time.sleep", slept.append)
    return slept


def test_a_busy_server_is_asked_again_when_it_says(naps) -> None:
    transport, seen = answers(
        httpx.Response(503, headers={"Retry-After": "7"}, json={"error": "full"}),
        httpx.Response(502, text="bad gateway"),
    )
    with RewardClient("http://x", transport=transport, token="t") as client:
        assert client([noise(8, 8, 3)]).tolist() == [0.5]
    assert len(seen) == 3
    assert naps[0] == 7
    assert 0 < naps[1] < 7
    assert seen[0].headers["Authorization"] == "Bearer t"


def test_patience_ends_with_the_servers_last_word(naps) -> None:
    transport, seen = answers(*[httpx.Response(503, json={"error": "queue full"})] * 50)
    with (
        RewardClient("http://x", transport=transport, patience_s=0.5) as client,
        pytest.raises(RewardServerError, match="queue full"),
    ):
        client([noise(8, 8, 3)])
    assert len(seen) < 10


def test_a_refusal_is_not_repeated(naps) -> None:
    transport, seen = answers(httpx.Response(413, json={"error": "over the limit"}))
    with (
        RewardClient("http://x", transport=transport) as client,
        pytest.raises(UsageError, match="413: over the limit"),
    ):
        client([noise(8, 8, 3)])
    assert (len(seen), naps) == (1, [])


def test_no_server_is_said_so() -> None:
    with (
        RewardClient("http://127.0.0.1:9", patience_s=0.1) as client,
        pytest.raises(RewardServerError, match="artimuse serve"),
    ):
        client.health()


def test_requests_are_bounded_in_images_and_bytes() -> None:
    transport, seen = answers()
    with RewardClient(
        "http://x", transport=transport, images_per_request=3, max_request_bytes=1000
    ) as client:
        client([b"x" * 100] * 7 + [b"y" * 5000, b"z" * 600, b"z" * 600])
    sizes = sorted(len(json.loads(request.content)["requests"]) for request in seen)
    assert sizes == [1, 1, 1, 1, 3, 3]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_format": "JPEG"}, "image_format"),
        ({"connections": 0}, "connections"),
        ({"output": "jax"}, "output"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        RewardClient("http://x", **options)


def test_the_client_loads_httpx_and_nothing_heavy() -> None:
    heavy = ("torch", "onnxruntime", "fastapi", "transformers", "uvicorn", "pydantic")
    code = (
        "import artimuse.artimuse_core.client\n"
        f"print([m for m in {heavy} if m in sys.modules], 'httpx' in sys.modules)"
    )
    assert python(code).strip() == "[] True"


def test_threads_share_a_client(served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    reward, url = served
    batches = [list(noise(4, 10 + side, 12, 3)) for side in range(12)]
    expected = [reward(batch) for batch in batches]
    with RewardClient(url) as client, ThreadPoolExecutor(6) as pool:
        for wanted, got in zip(expected, pool.map(client, batches), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_fake_scorer_serves_too() -> None:
    with (
        serving(Reward(brightness_scorer(), output="numpy")) as url,
        RewardClient(url, output="numpy") as client,
    ):
        assert client.health()["model"] == "brightness"
        assert client(Image.new("RGB", (4, 4), "white"))[0] == pytest.approx(100, abs=0.5)
