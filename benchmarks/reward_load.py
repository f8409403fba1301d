"""`artimuse serve` under load: 64 clients on loopback against the same images in one process.

Checks that no answer is lost or swapped: each client knows what each of its images scores in
process. Clients run in a process of their own, which competes for the same cores; one of them is
killed with -9 in the middle of its work. Server and in-process rounds alternate.

    python benchmarks/reward_load.py [--images 10000] [--clients 64] [--per-request 4]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from artimuse import Reward

import machine

DISTINCT = 48
ROUNDS = 3
TOLERANCE = 0.01  # score points: the last bits depend on who shares a batch


def render(side: int) -> list[bytes]:
    """Distinct JPEGs with a photograph's entropy."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(DISTINCT):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
        grain = generator.normal(0, 8, image.shape)
        file = io.BytesIO()
        Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def start_server() -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "artimuse.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("listening on"):
            return process, int(line.rsplit(":", 1)[1])
    raise SystemExit("the server did not start")


def one_client(
    port: int, seed: int, files: list[str], expected: list[float], requests: int, per_request: int
) -> tuple[list[float], int]:
    """Send requests one after another; seconds of each, and how many answers were wrong."""
    generator, seconds, wrong = random.Random(seed), [], 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for _ in range(requests):
        chosen = [generator.randrange(DISTINCT) for _ in range(per_request)]
        parts = ", ".join(f'{{"history": [{{"image_b64": "{files[i]}"}}]}}' for i in chosen)
        body = f'{{"requests": [{parts}]}}'
        start = time.perf_counter()
        while True:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/score", body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 503:
                break
            time.sleep(float(response.headers["Retry-After"]))
        seconds.append(time.perf_counter() - start)
        results = json.loads(answer)["results"]
        wrong += len(results) != per_request
        for index, result in zip(chosen, results, strict=False):
            wrong += abs(result["artimuse"]["score"] - expected[index]) > TOLERANCE
    connection.close()
    return seconds, wrong


def all_clients(
    port: int, files: list[str], expected: list[float], clients: int, requests: int, per: int
) -> tuple[float, list[float], int]:
    """Wall seconds, the requests' seconds, wrong answers; runs in a process of its own."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        pending = [
            pool.submit(one_client, port, seed, files, expected, requests, per)
            for seed in range(clients)
        ]
        answers = [future.result() for future in pending]
    wall = time.perf_counter() - start
    return wall, [s for seconds, _ in answers for s in seconds], sum(w for _, w in answers)


def die_in_the_middle(port: int, files: list[str]) -> None:
    """A client that is killed with -9 while its request is under way."""
    parts = ", ".join(f'{{"history": [{{"image_b64": "{file}"}}]}}' for file in files[:16])
    body = f'{{"requests": [{parts}]}}'
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/score", body, {"Content-Type": "application/json"})
    os.kill(os.getpid(), signal.SIGKILL)


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    raise SystemExit("no VmHWM: this benchmark reads /proc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--per-request", type=int, default=4)
    parser.add_argument("--side", type=int, default=512, help="of the JPEGs, in pixels")
    options = parser.parse_args()
    files = render(options.side)
    reward = Reward(output="numpy")
    expected = [float(value) for value in reward(files)]
    encoded = [base64.b64encode(file).decode() for file in files]
    requests = math.ceil(options.images / (ROUNDS * options.clients * options.per_request))
    count = requests * options.clients * options.per_request
    images = (files * (count // DISTINCT + 1))[:count]

    server, port = start_server()
    context = multiprocessing.get_context("spawn")
    inside, outside, seconds, wrong = [], [], [], 0
    try:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            reward(images)
            inside.append(count / (time.perf_counter() - start))
            victim = context.Process(target=die_in_the_middle, args=(port, encoded))
            threading.Timer(1.0, victim.start).start()
            with context.Pool(1) as pool:
                sizes = (options.clients, requests, options.per_request)
                wall, each, bad = pool.apply(all_clients, (port, encoded, expected, *sizes))
            victim.join()
            outside.append(count / wall)
            seconds += each
            wrong += bad
        peak = resident_mb(server.pid)
        assert server.poll() is None, "the server died"
    finally:
        server.terminate()
        server.wait(30)
    ordered = sorted(seconds)
    ratios = [there / here for here, there in zip(inside, outside, strict=True)]
    print(
        f"{machine.describe()}; model {reward.scorer.name}, JPEGs of {options.side}×{options.side}"
    )
    print("| what | measured |")
    print("|---|---|")
    print(f"| images, clients, images a request | {count * ROUNDS}, {sizes[0]}, {sizes[2]} |")
    print(f"| answers lost or swapped | {wrong} |")
    print(f"| clients killed with -9, server exit code | {ROUNDS}, {server.returncode} |")
    print(f"| in process, images/s | {statistics.median(inside):.0f} |")
    print(f"| over HTTP, images/s | {statistics.median(outside):.0f} |")
    print(f"| ratio (bound 0.85) | {statistics.median(ratios):.2f} |")
    print(f"| latency of a request, median | {statistics.median(ordered) * 1e3:.0f} ms |")
    print(f"| latency of a request, p99 | {ordered[int(len(ordered) * 0.99)] * 1e3:.0f} ms |")
    print(f"| server's peak memory | {peak:.0f} MB |")


if __name__ == "__main__":
    main()
