"""``artimuse serve``: the reward over HTTP, for trainers whose environment must not change.

One process speaks the protocols of :mod:`.serve_protocols`, batches across requests, and stays up:
bodies, images, pixels, waiting images and bytes in flight are bounded, a full queue is answered
with 503 and Retry-After, one bad image fails alone, and SIGTERM lets running requests finish.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import pickle
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import safe_pickle
from . import serve_protocols as protocols
from .batching import Batcher, QueueFullError, RewardItem
from .errors import ArtiMuseError, ImageError, UsageError
from .images import declared_pixels
from .reward import Reward

log = logging.getLogger(__name__)

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


class _NanJson(JSONResponse):
    """NaN is the protocols' word for "no reward"; Python's clients read it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class _Metrics:
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


def create_app(
    reward: Reward,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> FastAPI:
    """The application, for uvicorn, Ray Serve or any ASGI server.

    Args:
        token: if given, every path but ``/health`` wants ``Authorization: Bearer <token>``.
        allow_pickle: serve flow_grpo's pickle protocol; plain data only, see :mod:`.safe_pickle`.
    """
    from .. import __version__

    limits = limits or Limits()
    scorer = reward.scorer
    version = f"artimuse {__version__}, model {scorer.name}"
    metrics = _Metrics(lambda: batcher.waiting)
    batcher = Batcher(
        reward,
        max_batch=limits.max_batch,
        max_wait_s=limits.max_wait_ms / 1e3,
        max_queue=limits.max_queue,
        on_batch=metrics.on_batch,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="ArtiMuse",
        version=__version__,
        description="Image aesthetics as a reward.",
        lifespan=lifespan,
        responses={
            code: {"description": text}
            for code, text in (
                (400, "A body that cannot be read."),
                (401, "Token missing or wrong."),
                (408, "The body took too long."),
                (413, "Over a limit on bytes or images."),
                (422, "Not this protocol's request."),
                (503, "Busy; Retry-After says how long."),
            )
        },
    )
    app.state.batcher = batcher
    app.add_middleware(_Gatekeeper, limits=limits, token=token, metrics=metrics)

    async def answer(request: Request, sources: Sequence[protocols.Source]) -> list[RewardItem]:
        await _check_amount(sources, limits, scorer.max_pixels)
        items = await _evaluate(request, batcher, sources)
        failed = sum(item.error is not None for item in items)
        metrics.images.labels("failed").inc(failed)
        metrics.images.labels("scored").inc(len(items) - failed)
        return items

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether, and as what, this server answers."""
        return {
            "status": "ok",
            "model": scorer.name,
            "device": scorer.engine.device,
            "scorer_version": version,
            "rewards": {protocols.REWARD: ["score", "std"]},
            "max_images": limits.max_images,
            "max_body_bytes": limits.max_body_bytes,
        }

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/compute", response_model=protocols.ComputeResponse)
    async def compute(request: Request, body: protocols.ComputeRequest) -> Response:
        """Flow-Factory's remote reward."""
        sources = await _in_thread_if_large(request, lambda: protocols.compute_sources(body))
        return _NanJson(protocols.compute_answer(await answer(request, sources)))

    @app.post("/score", response_model=protocols.ScoreResponse)
    async def score(request: Request, body: protocols.ScoreRequest) -> Response:
        """UniRL's reward service."""
        sources = await _in_thread_if_large(request, lambda: protocols.score_sources(body))
        return _NanJson(protocols.score_answer(body, await answer(request, sources), version))

    @app.post("/", include_in_schema=allow_pickle, response_class=Response)
    async def pickled(request: Request) -> Response:
        """flow_grpo's and verl-omni's servers: pickle in, pickle out."""
        if not allow_pickle:
            raise _RefusedError(
                403, "pickle is off; start the server with --allow-pickle to take plain data"
            )
        message = await asyncio.to_thread(safe_pickle.loads, await request.body())
        items = await answer(request, protocols.pickle_sources(message))
        return Response(
            pickle.dumps(protocols.pickle_answer(items)), media_type="application/octet-stream"
        )

    _handle_errors(app)
    return app


class _RefusedError(ArtiMuseError):
    """A request this server will not serve."""

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.response = _error(status, reason, retry_after_s)


def _error(status: int, reason: str, retry_after_s: int | None = None) -> JSONResponse:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _NanJson({"error": reason}, status, headers)


def _handle_errors(app: FastAPI) -> None:
    """One line in a JSON object, whatever went wrong."""

    @app.exception_handler(_RefusedError)
    async def refused(request: Request, error: _RefusedError) -> Response:
        return error.response

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> Response:
        return _error(503, str(error), error.retry_after_s)

    @app.exception_handler(safe_pickle.PickleError)
    async def bad_pickle(request: Request, error: safe_pickle.PickleError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(UsageError)
    async def usage(request: Request, error: UsageError) -> Response:
        return _error(422, str(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _NanJson({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        status = 400 if first["type"] == "json_invalid" else 422
        return _error(status, f"{where or 'body'}: {first['msg']}")


async def _check_amount(
    sources: Sequence[protocols.Source], limits: Limits, max_pixels: int
) -> None:
    """Refuse more images, or more pixels in all, than one request may bring."""
    if len(sources) > limits.max_images:
        raise _RefusedError(413, f"{len(sources)} images, over the limit of {limits.max_images}")
    if len(sources) * max_pixels <= limits.max_request_pixels:
        return  # so few cannot claim too much, and need not be looked into

    def claimed() -> int:
        return sum(declared_pixels(source) for source in sources if isinstance(source, bytes))

    pixels = await asyncio.to_thread(claimed)
    if pixels > limits.max_request_pixels:
        limit = limits.max_request_pixels / 1e6
        raise _RefusedError(413, f"images of {pixels / 1e6:.0f} MP, over the limit of {limit:g} MP")


async def _in_thread_if_large(
    request: Request, decode: Callable[[], list[protocols.Source]]
) -> list[protocols.Source]:
    """Decoding base64 holds the loop a millisecond a megabyte."""
    if int(request.headers.get("content-length", 0)) > MIB:
        return await asyncio.to_thread(decode)
    return decode()


async def _evaluate(
    request: Request, batcher: Batcher, sources: Sequence[protocols.Source]
) -> list[RewardItem]:
    """One answer per source. If the client goes away, what still waits is taken back."""
    readable = [source for source in sources if isinstance(source, bytes)]
    work = asyncio.wrap_future(batcher.submit(readable))
    gone = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {work, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        raise _RefusedError(CLIENT_CLOSED, "the client went away")
    gone.cancel()
    answers = iter(await work)
    return [
        RewardItem(math.nan, math.nan, math.nan, str(source))
        if isinstance(source, ImageError)
        else next(answers)
        for source in sources
    ]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Gatekeeper:
    """Before any route: the token, the limits on bytes, the clock; after it: the metrics."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, token: str | None, metrics: _Metrics
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
        except _RefusedError as refused:
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
                    raise _RefusedError(CLIENT_CLOSED, "the client went away")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                held.grow_to(size)
                more = message.get("more_body", False)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.limits.body_timeout_s)
        except asyncio.TimeoutError:
            raise _RefusedError(
                408, f"no whole body within {self.limits.body_timeout_s:g} s"
            ) from None

    def _check_token(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self.authorization is None or scope["path"] == "/health":
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, self.authorization):
            raise _RefusedError(401, "expected the header Authorization: Bearer <token>")


class _Held:
    """The bytes one request has in flight; counted before they are received."""

    def __init__(self, gate: _Gatekeeper) -> None:
        self.gate, self.size = gate, 0

    def grow_to(self, size: int) -> None:
        more, limits = size - self.size, self.gate.limits
        if size > limits.max_body_bytes:
            raise _RefusedError(413, f"a body over the limit of {limits.max_body_bytes} bytes")
        if more <= 0:
            return
        if self.gate.in_flight + more > limits.max_bytes_in_flight:
            raise _RefusedError(503, "too many bytes in flight", retry_after_s=1)
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
        raise _RefusedError(400, "Content-Length is no number")
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


def check_address(host: str, token: str | None) -> None:
    """Raises UsageError where anybody on the network could ask without a token."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not token:
        raise UsageError(
            f"{host} can be reached from other machines: give --token, or bind to 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UsageError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    drain_timeout_s: int = 30,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests may finish within ``drain_timeout_s``."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        # uvicorn drains, then raises the signal again; having been asked to stop is no failure.
        signal.signal(stop, lambda number, frame: None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=drain_timeout_s,
        limit_concurrency=2048,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
