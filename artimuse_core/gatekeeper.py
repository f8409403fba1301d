"""What stands before the server's routes: the limits, the token, the clock, and the metrics.

Bodies are counted before they are received, so that no number of clients can fill the memory; a
request that is refused never reaches a route.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ArtiMuseError, UsageError

MIB = 1 << 20
CLIENT_CLOSED = 499  # nginx's code; the client is gone and reads nothing


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for."""

    max_body_bytes: int = 64 * MIB
    """One request's body."""
    max_bytes_in_flight: int = 512 * MIB
    """All bodies that are being received or worked on; memory peaks at about three times that."""
    max_images: int = 256
    """In one request."""
    max_request_pixels: int = 500_000_000
    """Of all images of one request, as their headers claim; the scorer limits each image."""
    max_queue: int = 1024
    """Images that wait for the model."""
    max_batch: int = 32
    """Images evaluated together."""
    max_wait_ms: float = 5.0
    """How long an incomplete batch waits for company."""
    body_timeout_s: float = 60.0
    """To receive a body in."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < math.inf and not (item.name == "max_wait_ms" and value == 0):
                raise UsageError(f"expected {item.name} above 0, got {value}")


class NanJson(JSONResponse):
    """NaN is the protocols' word for "no reward"; Python's clients read it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class Metrics:
    """Prometheus' view of one server, in a registry of its own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "artimuse_requests", "Requests.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "artimuse_request_seconds", "From first byte to answer.", ["path"], registry=registry
        )
        self.images = Counter("artimuse_images", "Images answered.", ["outcome"], registry=registry)
        self.batch_images = Histogram(
            "artimuse_batch_images", "Images evaluated together.", registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "artimuse_batch_seconds", "To evaluate a batch.", registry=registry
        )
        self.bytes_in_flight = Gauge(
            "artimuse_bytes_in_flight", "Bodies received or worked on.", registry=registry
        )
        queue = Gauge("artimuse_queue_images", "Images that wait.", registry=registry)
        queue.set_function(waiting)

    def on_batch(self, images: int, seconds: float) -> None:
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)


class RefusedError(ArtiMuseError):
    """A request this server will not serve."""

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.response = error_response(status, reason, retry_after_s)


def error_response(status: int, reason: str, retry_after_s: int | None = None) -> JSONResponse:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return NanJson({"error": reason}, status, headers)


class Gatekeeper:
    """Before any route: the token, the limits on bytes, the clock; after it: the metrics."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, token: str | None, metrics: Metrics
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.authorization = None if token is None else f"Bearer {token}".encode()
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        known = ("/health", "/metrics", "/compute", "/score", "/")
        path = scope["path"] if scope["path"] in known else "other"
        try:
            await self._admit(scope, receive, watched)
        finally:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        held = _Held(self)
        try:
            self._check_token(scope, headers)
            held.grow_to(_content_length(headers))
            body = await self._body(receive, held)
            await self.app(scope, _replay(body, receive), send)
        except RefusedError as refused:
            await refused.response(scope, receive, send)
        finally:
            held.release()

    async def _body(self, receive: Receive, held: _Held) -> bytes:
        """The whole body, so that nothing half-received reaches a route."""

        async def read() -> bytes:
            parts: list[bytes] = []
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(CLIENT_CLOSED, "the client went away")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                held.grow_to(size)
                more = message.get("more_body", False)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.limits.body_timeout_s)
        except asyncio.TimeoutError:
            raise RefusedError(
                408, f"no whole body within {self.limits.body_timeout_s:g} s"
            ) from None

    def _check_token(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self.authorization is None or scope["path"] == "/health":
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, self.authorization):
            raise RefusedError(401, "expected the header Authorization: Bearer <token>")


class _Held:
    """The bytes one request has in flight; counted before they are received."""

    def __init__(self, gate: Gatekeeper) -> None:
        self.gate, self.size = gate, 0

    def grow_to(self, size: int) -> None:
        more, limits = size - self.size, self.gate.limits
        if size > limits.max_body_bytes:
            raise RefusedError(413, f"a body over the limit of {limits.max_body_bytes} bytes")
        if more <= 0:
            return
        if self.gate.in_flight + more > limits.max_bytes_in_flight:
            raise RefusedError(503, "too many bytes in flight", retry_after_s=1)
        self._count(more)

    def release(self) -> None:
        self._count(-self.size)

    def _count(self, more: int) -> None:
        self.size += more
        self.gate.in_flight += more
        self.gate.metrics.bytes_in_flight.set(self.gate.in_flight)


def _content_length(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"0")
    if not value.isdigit():
        raise RefusedError(400, "Content-Length is no number")
    return int(value)


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` for the application: the body at once, then what the client does next."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
