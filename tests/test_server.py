import json
import math
import pickle
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from artimuse.artimuse_core import server
from artimuse.artimuse_core.errors import UsageError
from artimuse.artimuse_core.gatekeeper import Limits
from artimuse.artimuse_core.reward import Reward

from .fakes import BrightnessEngine, brightness_scorer
from .serving import b64, grey_file, serving


@pytest.fixture(scope="module")
def url():
    with serving(allow_pickle=True) as address:
        yield address


def bad_claims(side: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes whose header claims 900 MP."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# --- the four protocols ---


def test_health_satisfies_flow_factory_and_unirl(url) -> None:
    response = httpx.get(f"{url}/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "ok"
    assert health["model"] == "brightness"
    assert isinstance(health["rewards"], dict)
    assert "artimuse" in health["rewards"]


def test_flow_factorys_remote_reward(url) -> None:
    payload = {
        "prompt": ["a", "b"],
        "image": [b64(grey_file(20)), b64(grey_file(80))],
        "video": None, "condition_images": None, "condition_videos": None, "kwargs": None,
    }  # fmt: skip
    response = httpx.post(f"{url}/compute", json=payload)
    response.raise_for_status()
    data = response.json()
    assert not data.get("error")
    assert data["rewards"] == pytest.approx([20, 80], abs=0.5)


def unirl_request(**changes):
    item = {
        "history": [{"text": "a cat", "image_b64": b64(grey_file(60))}],
        "required_rewards": ["artimuse"],
        "metadata": {"policy_version": 3},
        "request_id": "r-1", "sample_id": "s-1", "group_id": None, "source_rank": 0,
        "policy_version": 3, "scorer_version": None, "idempotency_key": "k",
    }  # fmt: skip
    return {**item, **changes}


def test_unirls_reward_service(url) -> None:
    requests = [
        unirl_request(),
        unirl_request(history=[{"text": "x", "image_b64": "!!!"}], request_id="r-2"),
        unirl_request(
            history=[
                {"text": "edit", "image_b64": b64(grey_file(10))},
                {"text": "edit", "image_b64": b64(grey_file(90))},
            ]
        ),
        unirl_request(required_rewards=["hpsv3"]),
        unirl_request(history=[{"text": "v", "video_b64": "AAAA"}]),
    ]
    response = httpx.post(f"{url}/score", json={"protocol_version": "1", "requests": requests})
    response.raise_for_status()
    answer = response.json()
    assert answer["protocol_version"] == "1"
    results, errors = answer["results"], answer["errors"]
    assert list(results[0]["artimuse"]) == ["score", "std"], "the first sub-metric is the reward"
    assert results[0]["artimuse"]["score"] == pytest.approx(60, abs=0.5)
    assert errors[0] == {}
    assert math.isnan(results[1]["artimuse"]["score"])
    assert "base64" in errors[1]["artimuse"]
    assert results[2]["artimuse"]["score"] == pytest.approx(90, abs=0.5), "the generated image"
    assert results[3] == {}
    assert "unknown reward" in errors[3]["hpsv3"]
    assert "no image_b64" in errors[4]["artimuse"]
    for sent, echoed in zip(requests, answer["identities"], strict=True):
        for key in ("request_id", "sample_id", "group_id", "source_rank", "policy_version"):
            assert echoed[key] == sent[key]
        assert echoed["idempotency_key"] == sent["idempotency_key"]
        assert echoed["scorer_version"] == httpx.get(f"{url}/health").json()["scorer_version"]


def test_flow_grpos_pickle_server(url) -> None:
    body = pickle.dumps({"images": [grey_file(20), b"broken", grey_file(80)]})
    response = httpx.post(url, content=body)
    answer = pickle.loads(response.content)
    assert answer["outputs"] == pytest.approx([20, math.nan, 80], abs=0.5, nan_ok=True)
    assert answer["errors"][1].startswith("not an image")


def test_verl_omnis_pickle_client(url) -> None:
    body = pickle.dumps({"images": [grey_file(20)], "prompts": ["a cat"], "metadata": {}})
    answer = pickle.loads(httpx.post(url, content=body).content)
    assert "error" not in answer
    assert float(answer["scores"][0]) == pytest.approx(20, abs=0.5)


# --- per-item failures, limits ---


def test_a_bad_image_fails_alone_with_its_reason(url) -> None:
    images = [b64(grey_file(20)), b64(b"x"), "***", b64(bad_claims()), "", b64(grey_file(80))]
    answer = httpx.post(f"{url}/compute", json={"image": images}).json()
    assert answer["rewards"] == pytest.approx([20, *[math.nan] * 4, 80], abs=0.5, nan_ok=True)
    reasons = answer["errors"]
    assert reasons[0] is reasons[5] is None
    assert "not an image" in reasons[1]
    assert "base64" in reasons[2]
    assert "over the limit" in reasons[3] or "too large" in reasons[3]
    assert "empty" in reasons[4]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/compute", b"{", 400, "JSON"),
        ("/compute", b"[]", 422, "dictionary"),
        ("/compute", b'{"prompt": ["a"]}', 422, "image: Field required"),
        ("/compute", b'{"prompt": ["a"], "image": []}', 422, "1 prompts for 0 images"),
        ("/compute", b'{"image": [7]}', 422, "image.0"),
        ("/score", b'{"requests": [{"history": 3}]}', 422, "requests.0.history"),
        ("/score", b'{"protocol_version": "9", "requests": []}', 422, "should be '1'"),
        ("/compute", b"[" * 100_000, 400, ""),
        ("/compute", b'{"image": ' + b"9" * 5000 + b"}", 400, ""),
        ("/nowhere", b"", 404, "Not Found"),
        ("/", b"no pickle", 400, "pickle"),
        ("/", pickle.dumps([1, 2]), 422, "images"),
        ("/", pickle.dumps({"images": ["text"]}), 200, ""),
    ],
)
def test_malformed_requests_get_one_line(url, path, body, status, reason) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(url + path, content=body, headers=headers)
    assert response.status_code == status, response.text
    if status != 200:
        assert reason in response.json()["error"]
        assert "\n" not in response.json()["error"]


def small_limits(**changes) -> Limits:
    return Limits(**{"max_body_bytes": 100_000, "max_images": 3, **changes})


def test_limits_on_bytes_images_and_pixels() -> None:
    limits = small_limits(max_request_pixels=100)
    with serving(limits=limits) as url:
        too_many = httpx.post(f"{url}/compute", json={"image": [b64(grey_file(1))] * 4})
        assert (too_many.status_code, too_many.json()["error"][:8]) == (413, "4 images")
        too_large = httpx.post(f"{url}/compute", content=b"x" * 100_001)
        assert too_large.status_code == 413
        chunked = httpx.post(f"{url}/compute", content=iter([b"x" * 1000] * 101))
        assert chunked.status_code == 413
        pixels = httpx.post(f"{url}/compute", json={"image": [b64(grey_file(1, side=11))]})
        assert pixels.status_code == 413
        assert "MP" in pixels.json()["error"]
        fine = httpx.post(f"{url}/compute", json={"image": [b64(grey_file(1, side=10))]})
        assert fine.status_code == 200


def raw(url: str, request: bytes, timeout: float = 5) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
            if b"\r\n\r\n" in answer:
                return answer
        return answer


def test_a_claim_of_a_gigabyte_is_refused_before_anything_is_read(url) -> None:
    head = b"POST /compute HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    assert b" 413 " in raw(url, head).splitlines()[0]


def test_a_body_that_never_ends_is_given_up() -> None:
    with serving(limits=small_limits(body_timeout_s=0.2)) as url:
        head = b"POST /compute HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
        assert b" 408 " in raw(url, head).splitlines()[0]
        assert httpx.get(f"{url}/health").status_code == 200


def test_bytes_in_flight_are_bounded_over_all_clients() -> None:
    with serving(limits=small_limits(max_bytes_in_flight=150_000)) as url:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /compute HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head)
            wait_for(lambda: metric(url, "artimuse_bytes_in_flight") == 100_000)
            busy = httpx.post(f"{url}/compute", content=b"x" * 60_000)
            assert busy.status_code == 503
            assert int(busy.headers["Retry-After"]) >= 1
        wait_for(lambda: metric(url, "artimuse_bytes_in_flight") == 0)


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def metric(url: str, name: str) -> float:
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    return 0.0


# --- the pickle door ---


def test_pickle_is_closed_unless_allowed() -> None:
    with serving() as url:
        response = httpx.post(url, content=pickle.dumps({"images": []}))
        assert response.status_code == 403
        assert "--allow-pickle" in response.json()["error"]


def test_a_pickle_that_imports_os_is_refused(url, tmp_path) -> None:
    target = tmp_path / "owned"

    class Attack:
        def __reduce__(self):
            import os

            return os.system, (f"touch {target}",)

    response = httpx.post(url, content=pickle.dumps({"images": [Attack()]}))
    assert response.status_code == 400
    assert "refused" in response.json()["error"]
    assert not target.exists()


# --- concurrency, back-pressure, going away ---


class SlowEngine(BrightnessEngine):
    """Brightness, at the pace of a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def score_logits(self, pixel_values):
        self.gate.wait(20)
        return super().score_logits(pixel_values)


@pytest.fixture
def slow():
    scorer = brightness_scorer()
    scorer.engine = SlowEngine()
    yield scorer
    scorer.engine.gate.set()


def test_nothing_is_lost_or_swapped_between_concurrent_clients() -> None:
    scorer = brightness_scorer()
    with serving(Reward(scorer, output="numpy")) as url:

        def client(seed: int) -> None:
            with httpx.Client() as http:
                for step in range(10):
                    levels = [(7 * seed + 13 * step + 29 * index) % 100 for index in range(3)]
                    body = {"image": [b64(grey_file(level)) for level in levels]}
                    rewards = http.post(f"{url}/compute", json=body).json()["rewards"]
                    assert rewards == pytest.approx(levels, abs=0.5)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(client, range(16)))
        assert max(scorer.engine.batches) > 3, "requests share batches"
        assert metric(url, 'artimuse_images_total{outcome="scored"}') == 480


def test_a_full_queue_answers_503_with_retry_after_and_recovers(slow) -> None:
    limits = small_limits(max_queue=2, max_batch=1)
    with serving(Reward(slow, output="numpy"), limits=limits) as url, ThreadPoolExecutor(4) as pool:

        def one() -> httpx.Response:
            return httpx.post(f"{url}/compute", json={"image": [b64(grey_file(30))]}, timeout=20)

        held = [pool.submit(one) for _ in range(2)]  # both workers are busy
        wait_for(lambda: metric(url, "artimuse_bytes_in_flight") > 0)
        time.sleep(0.1)
        waiting = [pool.submit(one) for _ in range(2)]
        wait_for(lambda: metric(url, "artimuse_queue_images") == 2)
        refused = one()
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        slow.engine.gate.set()
        assert all(f.result().json()["rewards"] == pytest.approx([30], abs=0.5) for f in held)
        assert all(f.result().status_code == 200 for f in waiting)
        assert one().status_code == 200


def test_a_client_that_dies_takes_its_waiting_images_along(slow) -> None:
    limits = small_limits(max_batch=1)
    with serving(Reward(slow, output="numpy"), limits=limits) as url, ThreadPoolExecutor(2) as pool:
        body = json.dumps({"image": [b64(grey_file(30))]}).encode()
        for _ in range(2):  # keeps both workers busy
            pool.submit(httpx.post, f"{url}/compute", content=body, timeout=20,
                        headers={"Content-Type": "application/json"})  # fmt: skip
        wait_for(lambda: metric(url, "artimuse_bytes_in_flight") >= 2 * len(body))
        time.sleep(0.1)
        host, port = url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)))
        head = "POST /compute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: metric(url, "artimuse_queue_images") == 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # a reset, as kill -9 leaves it
        gone = 'artimuse_requests_total{path="/compute",status="499"}'
        wait_for(lambda: metric(url, gone) == 1)
        slow.engine.gate.set()
        wait_for(lambda: metric(url, "artimuse_queue_images") == 0)
        assert httpx.get(f"{url}/health").status_code == 200
    assert sum(slow.engine.batches) == 2, "the dead client's image was not evaluated"


def test_stopping_finishes_what_runs(slow) -> None:
    with ThreadPoolExecutor(1) as pool:
        with serving(Reward(slow, output="numpy")) as url:
            body = {"image": [b64(grey_file(30))]}
            running = pool.submit(httpx.post, f"{url}/compute", json=body, timeout=20)
            wait_for(lambda: metric(url, "artimuse_bytes_in_flight") > 0)
            threading.Timer(0.5, slow.engine.gate.set).start()
        assert running.result().json()["rewards"] == pytest.approx([30], abs=0.5)


# --- who may ask ---


def test_a_token_is_wanted_everywhere_but_for_health() -> None:
    with serving(token="s3cret") as url:
        body = {"image": [b64(grey_file(30))]}
        assert httpx.get(f"{url}/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            response = httpx.post(f"{url}/compute", json=body, headers=headers)
            assert response.status_code == 401
            assert "Bearer" in response.headers["WWW-Authenticate"]
            assert httpx.get(f"{url}/metrics", headers=headers).status_code == 401
            assert httpx.get(f"{url}/openapi.json", headers=headers).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert httpx.post(f"{url}/compute", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_than_loopback_need_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        server.check_address(host, None)
    server.check_address(host, "t")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    server.check_address(host, None)


def test_a_taken_port_is_said_in_one_line() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="cannot listen"):
        server.listen("127.0.0.1", taken.getsockname()[1])


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="max_images"):
        Limits(max_images=0)


def test_metrics_count_requests_by_path_and_status(url) -> None:
    httpx.get(f"{url}/no/such/path")
    text = httpx.get(f"{url}/metrics").text
    assert 'artimuse_requests_total{path="other",status="404"}' in text
    assert "no/such" not in text, "paths of strangers must not become labels"
