"""``artimuse serve``: the reward over HTTP, for trainers whose environment must not change.

One process speaks the protocols of :mod:`.serve_protocols`, batches across requests, and stays up:
bodies, images, pixels, waiting images and bytes in flight are bounded, a full queue is answered
with 503 and Retry-After, one bad image fails alone, and SIGTERM lets running requests finish.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import pickle
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    generate_latest,
)
from starlette.exceptions import HTTPException

from . import safe_pickle
from . import serve_protocols as protocols
from .batching import Batcher, QueueFullError, RewardItem
from .errors import ImageError, UsageError
from .gatekeeper import (
    CLIENT_CLOSED,
    MIB,
    Gatekeeper,
    Limits,
    Metrics,
    NanJson,
    RefusedError,
    error_response,
)
from .images import declared_pixels
from .reward import Reward

log = logging.getLogger(__name__)


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
    metrics = Metrics(lambda: batcher.waiting)
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
    app.add_middleware(Gatekeeper, limits=limits, token=token, metrics=metrics)

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
        return NanJson(protocols.compute_answer(await answer(request, sources)))

    @app.post("/score", response_model=protocols.ScoreResponse)
    async def score(request: Request, body: protocols.ScoreRequest) -> Response:
        """UniRL's reward service."""
        sources = await _in_thread_if_large(request, lambda: protocols.score_sources(body))
        return NanJson(protocols.score_answer(body, await answer(request, sources), version))

    @app.post("/", include_in_schema=allow_pickle, response_class=Response)
    async def pickled(request: Request) -> Response:
        """flow_grpo's and verl-omni's servers: pickle in, pickle out."""
        if not allow_pickle:
            raise RefusedError(
                403, "pickle is off; start the server with --allow-pickle to take plain data"
            )
        message = await asyncio.to_thread(safe_pickle.loads, await request.body())
        items = await answer(request, protocols.pickle_sources(message))
        return Response(
            pickle.dumps(protocols.pickle_answer(items)), media_type="application/octet-stream"
        )

    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """One line in a JSON object, whatever went wrong."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error.response

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> Response:
        return error_response(503, str(error), error.retry_after_s)

    @app.exception_handler(safe_pickle.PickleError)
    async def bad_pickle(request: Request, error: safe_pickle.PickleError) -> Response:
        return error_response(400, str(error))

    @app.exception_handler(UsageError)
    async def usage(request: Request, error: UsageError) -> Response:
        return error_response(422, str(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return NanJson({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        status = 400 if first["type"] == "json_invalid" else 422
        return error_response(status, f"{where or 'body'}: {first['msg']}")


async def _check_amount(
    sources: Sequence[protocols.Source], limits: Limits, max_pixels: int
) -> None:
    """Refuse more images, or more pixels in all, than one request may bring."""
    if len(sources) > limits.max_images:
        raise RefusedError(413, f"{len(sources)} images, over the limit of {limits.max_images}")
    if len(sources) * max_pixels <= limits.max_request_pixels:
        return  # so few cannot claim too much, and need not be looked into

    def claimed() -> int:
        return sum(declared_pixels(source) for source in sources if isinstance(source, bytes))

    pixels = await asyncio.to_thread(claimed)
    if pixels > limits.max_request_pixels:
        limit = limits.max_request_pixels / 1e6
        raise RefusedError(413, f"images of {pixels / 1e6:.0f} MP, over the limit of {limit:g} MP")


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
        raise RefusedError(CLIENT_CLOSED, "the client went away")
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
