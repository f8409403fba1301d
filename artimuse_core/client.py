"""The reward from another process: the same callable as ``Reward``, over ``artimuse serve``.

Needs httpx and nothing else beside this package's base: no torch, no model. Arrays, tensors and
PIL images travel as lossless files, paths and bytes as they are, so the numbers are those of the
same process.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import inputs
from .errors import ArtiMuseError, ImageError, MissingExtraError, UsageError
from .images import DEFAULT_MAX_PIXELS, load_image
from .reward import Rewards, as_output, check_output, log_failures, rgb_image, split_images

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("httpx", "client") from error

log = logging.getLogger(__name__)

REWARD = "artimuse"
RETRIED = (408, 429, 500, 502, 503, 504)
FORMATS = ("PNG", "BMP")


class RewardServerError(ArtiMuseError):
    """The server could not be reached, or did not answer, for as long as the client may wait."""


class RewardClient:
    """``client(images, prompts, metadata) -> (B,)`` rewards from a server.

    Args:
        url: e.g. ``http://127.0.0.1:8000``.
        token: the server's ``--token``.
        images_per_request: images in one request, at most.
        max_request_bytes: their files' size in one request, unless one image alone is larger.
        connections: requests at a time.
        timeout_s: for one answer.
        patience_s: how long a request is tried again while the server is busy or away.
        image_format: of images that are no files yet: PNG, or BMP, which is larger and faster.
        output: as of :class:`.reward.Reward`.

    Safe to call from several threads. Close it, or use it in a ``with`` block.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        images_per_request: int = 32,
        max_request_bytes: int = 24 << 20,
        connections: int = 4,
        timeout_s: float = 120.0,
        patience_s: float = 300.0,
        image_format: str = "PNG",
        output: str = "auto",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        check_output(output)
        if image_format not in FORMATS:
            raise UsageError(f"unknown image_format {image_format!r}; known: {', '.join(FORMATS)}")
        for name, value in (
            ("images_per_request", images_per_request),
            ("connections", connections),
        ):
            if value < 1:
                raise UsageError(f"expected {name} of at least 1, got {value}")
        self.images_per_request, self.max_request_bytes = images_per_request, max_request_bytes
        self.patience_s, self.image_format, self.output = patience_s, image_format, output
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections),
            transport=transport,
            trust_env=False,  # a proxy for the world is none for a machine in the next rack
        )
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="artimuse-client")

    def __call__(self, images: Any, prompts: Any = None, metadata: Any = None) -> Any:
        """(B,) fp32 rewards, NaN where an image failed; see :class:`.reward.Reward`.

        Raises RewardServerError if the server stays away, UsageError if it refuses the request.
        """
        rewards = self.evaluate(images, prompts, metadata)
        log_failures(rewards)
        return as_output(rewards.values, images, self.output)

    def evaluate(self, images: Any, prompts: Any = None, metadata: Any = None) -> Rewards:
        """The same with reasons, as numpy; ``scores`` and penalties stay on the server."""
        sources = list(inputs.flatten(images, split_images))
        files = self._pool.map(self._file, sources)
        answers = self._pool.map(self._score, self._requests(files))
        rows = [row for answer in list(answers) for row in answer]
        values = np.array([value for value, _, _ in rows], np.float32)
        return Rewards(
            values=values,
            errors=tuple(error for _, _, error in rows),
            scores=np.full_like(values, np.nan),
            stds=np.array([std for _, std, _ in rows], np.float32),
            penalties=np.zeros_like(values),
        )

    def health(self) -> dict[str, Any]:
        """What the server says of itself. Raises RewardServerError if there is none."""
        answer: dict[str, Any] = self._send("GET", "/health").json()
        return answer

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, source: Any) -> bytes | ImageError:
        """A source's bytes as they travel, or why there are none."""
        try:
            if isinstance(source, bytes):
                return source
            if hasattr(source, "read"):
                return bytes(source.read())
            if not isinstance(source, (np.ndarray, Image.Image)):
                return Path(source).read_bytes()
            file = io.BytesIO()
            image = load_image(rgb_image(source), max_pixels=DEFAULT_MAX_PIXELS)
            image.save(file, self.image_format, **self._save_options())
            return file.getvalue()
        except OSError as error:
            return ImageError(f"cannot read the file: {error.strerror or error}")
        except ImageError as error:
            return error

    def _save_options(self) -> dict[str, int]:
        return {"compress_level": 1} if self.image_format == "PNG" else {}

    def _requests(self, files: Iterable[bytes | ImageError]) -> Iterator[list[bytes | ImageError]]:
        """Files in order, in portions of bounded number and size."""
        portion: list[bytes | ImageError] = []
        size = 0
        for file in files:
            more = len(file) if isinstance(file, bytes) else 0
            full = len(portion) == self.images_per_request
            if portion and (full or size + more > self.max_request_bytes):
                yield portion
                portion, size = [], 0
            portion.append(file)
            size += more
        if portion:
            yield portion

    def _score(self, files: Sequence[bytes | ImageError]) -> list[tuple[float, float, str | None]]:
        """(value, std, error) for each file."""
        requests = [
            {"history": [{"image_b64": base64.b64encode(file).decode()}]}
            for file in files
            if isinstance(file, bytes)
        ]
        rows: Iterator[tuple[float, float, str | None]] = iter(())
        if requests:
            answer = self._send("POST", "/score", {"requests": requests}).json()
            rows = (
                (result[REWARD]["score"], result[REWARD]["std"], errors.get(REWARD))
                for result, errors in zip(answer["results"], answer["errors"], strict=True)
            )
        return [
            (math.nan, math.nan, str(file)) if isinstance(file, ImageError) else next(rows)
            for file in files
        ]

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request, tried again while the server is busy or away."""
        deadline = time.monotonic() + self.patience_s
        for attempt in range(1_000_000):
            delay = min(30.0, 0.2 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                reason = f"HTTP {response.status_code}: {_reason(response)}"
                if response.status_code not in RETRIED:
                    raise UsageError(f"{self._http.base_url} refused the request: {reason}")
                delay = max(delay, _retry_after_s(response))
            if time.monotonic() + delay > deadline:
                break
            log.info("%s; trying again in %.1f s", reason, delay)
            time.sleep(delay)
        raise RewardServerError(
            f"no answer from {self._http.base_url} in {self.patience_s:g} s ({reason}); "
            "is `artimuse serve` running there?"
        )


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
