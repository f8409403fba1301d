"""``artimuse serve --engine ray``: the same application on several replicas, for fleets.

Each replica is a process with a model and a queue of its own; Ray Serve's proxy spreads requests
over them. ``/metrics`` and the bound on waiting images are a replica's own.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from .gatekeeper import Limits
from .reward import Reward
from .scorer import ModelSpec
from .server import create_app

log = logging.getLogger(__name__)

APPLICATION = "artimuse"


@dataclass(frozen=True)
class Recipe:
    """What a replica builds itself from; it travels to other processes and machines."""

    model: ModelSpec
    scale: str | float = "raw"
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    allow_pickle: bool = False

    def build(self) -> FastAPI:
        """Load the model and make the application; runs in the replica."""
        scorer, batch_size = self.model.scorer(), self.model.batch_size
        reward = Reward(scorer, scale=self.scale, batch_size=batch_size, output="numpy")
        return create_app(
            reward, limits=self.limits, token=self.token, allow_pickle=self.allow_pickle
        )


def deployment(recipe: Recipe, replicas: int, *, gpus: float = 0.0) -> Any:
    """A Ray Serve application; ``gpus`` is each replica's share."""

    def build() -> FastAPI:  # Ray calls plain functions in the replica, and nothing else
        return recipe.build()

    class ArtiMuse:
        """Routes are those of the application."""

    ingress: Any = serve.ingress(build)(ArtiMuse)
    options = {"num_cpus": 1, "num_gpus": gpus}
    return serve.deployment(
        ingress,
        name="ArtiMuse",
        num_replicas=replicas,
        # The application refuses what it cannot queue; Ray must let it see the requests.
        max_ongoing_requests=recipe.limits.max_queue,
        ray_actor_options=options,
    ).bind()


def start(
    recipe: Recipe, replicas: int, host: str, port: int, *, gpus: float = 0.0
) -> Callable[[], None]:
    """Serve until the returned function is called.

    On the cluster that ``RAY_ADDRESS`` names, otherwise on a new one on this machine: Ray itself
    would join whatever cluster happens to run here.
    """
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, log_to_driver=False)
    serve.start(http_options={"host": host, "port": port})
    serve.run(deployment(recipe, replicas, gpus=gpus), name=APPLICATION, route_prefix="/")

    def stop() -> None:
        serve.shutdown()
        ray.shutdown()

    return stop


def run(recipe: Recipe, replicas: int, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve in the foreground until Ctrl-C or SIGTERM; ``ready`` is called once it answers."""
    stopped = threading.Event()
    gpus = 1.0 if recipe.model.device.startswith("cuda") else 0.0
    stop = start(recipe, replicas, host, port, gpus=gpus)
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has set its own
        signal.signal(number, lambda number, frame: stopped.set())
    ready()
    stopped.wait()
    stop()
