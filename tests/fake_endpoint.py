"""An OpenAI-compatible endpoint on a free port of this machine, which misbehaves as it is told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = "The balance of light and shade is convincing, though the left edge feels crowded."
FAULTS = {
    "429": (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    "500": (500, {"error": {"message": "it broke"}}),
    "empty account": (429, {"error": {"message": "pay first", "code": "insufficient_quota"}}),
    "key": (401, {"error": {"message": "wrong key"}}),
    "filtered": (400, {"error": {"message": "not this one", "code": "content_filter"}}),
    "bad request": (400, {"error": {"message": "image too odd", "code": "invalid_image"}}),
}
ANSWERS = {
    "good": GOOD,
    "long": "word " * 101,
    "markdown": "**Light:** good.",
    "paragraphs": "One.\n\nTwo.",
    "chinese": "这张照片的构图非常均衡。",
    "nothing": " ",
    "sorry": "I'm sorry, but I can't help with that.",
}

Script = Callable[[str, int], str]
"""What to do, by the prompt's text and how often it was asked before (remarks not counted)."""


class Endpoint:
    def __init__(self, script: Script, slow_s: float) -> None:
        self.script, self.slow_s = script, slow_s
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = ""


def text_of(body: dict) -> str:
    return body["messages"][0]["content"][0]["text"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        here = self.endpoint
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = re.sub(r"\n\nYour last answer .*", "", text_of(body), flags=re.DOTALL)
        question += body["messages"][0]["content"][1]["image_url"]["url"][-60:]
        with here.lock:
            here.bodies.append(body)
            times = here.asked[question]
            here.asked[question] += 1
            here.busy += 1
            here.most_busy = max(here.busy, here.most_busy)
        try:
            self.act(here.script(question, times), body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client did not wait
        finally:
            with here.lock:
                here.busy -= 1

    def act(self, what: str, body: dict) -> None:
        if what == "timeout":
            self.endpoint.closing.wait(self.endpoint.slow_s)
        if what == "hang up":
            self.close_connection = True
            self.connection.close()
            return
        if what == "newer name" and "max_tokens" in body:
            error = {"message": "use max_completion_tokens", "param": "max_tokens"}
            self.send(400, json.dumps({"error": error}))
            return
        if what in FAULTS:
            status, page = FAULTS[what]
            self.send(status, json.dumps(page), {"retry-after": "0.01"})
            return
        answer = completion(ANSWERS.get(what, GOOD if what in ("timeout", "newer name") else what))
        if what == "cut off":
            answer["choices"][0]["finish_reason"] = "length"
        if what == "refusal":
            answer["choices"][0]["message"] |= {"content": None, "refusal": "I would rather not."}
        text = json.dumps(answer)
        if what == "truncated":
            self.send(200, text[: len(text) // 2])
        elif what == "html":
            self.send(200, "<html>bad gateway</html>", {"content-type": "text/html"})
        else:
            self.send(200, text)

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in ({"content-type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(text: str) -> dict:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


@contextmanager
def endpoint(
    script: Script = lambda question, times: "good", slow_s: float = 5
) -> Iterator[Endpoint]:
    here = Endpoint(script, slow_s)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"endpoint": here}))
    server.daemon_threads = True
    here.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield here
    finally:
        here.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
