"""A real server on a free port of this machine, for the tests of server and client."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn
from PIL import Image

from artimuse.artimuse_core import server
from artimuse.artimuse_core.reward import Reward

from .fakes import brightness_scorer


@contextmanager
def serving(reward: Reward | None = None, **options: object) -> Iterator[str]:
    """The server's address; stopped, and drained, at the end."""
    reward = reward or Reward(brightness_scorer(), output="numpy")
    app = server.create_app(reward, **options)  # type: ignore[arg-type]
    listener = server.listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", server_header=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def file_of(image: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind)
    return file.getvalue()


def grey_file(percent: float, side: int = 16) -> bytes:
    return file_of(Image.new("RGB", (side, side), (round(percent * 2.55),) * 3))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
