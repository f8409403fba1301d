"""A real, headless ComfyUI on the loopback, driven through its HTTP API.

``COMFYUI_PATH`` is its folder; ``COMFYUI_PYTHON`` the interpreter that has its requirements.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = os.environ.get("COMFYUI_PATH")
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
BOOT_TIMEOUT_S = 180
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")


@dataclass(frozen=True)
class Answer:
    """What became of a prompt."""

    status: str
    """success, error, interrupted, or rejected before it ran."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """What each node showed, by node id."""
    cached: tuple[str, ...] = ()
    """Ids of the nodes that did not run again."""
    error: str = ""


class ComfyServer:
    """Starts with :meth:`start`; stops only the process it started."""

    def __init__(self, base: Path) -> None:
        """``base``: an empty folder for custom_nodes, models, input, output, …"""
        self.base = base
        for name in FOLDERS:
            (base / name).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        command = [
            PYTHON, str(Path(str(PATH), "main.py")), "--cpu", "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base),
            "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes",
            *arguments,
        ]  # fmt: skip
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)  # ComfyUI must find the pack by itself
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=PATH, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            try:
                self.call("/system_stats")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-3000:]}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def call(self, path: str, body: Any = None) -> Any:
        """GET, or POST where there is a body; the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def submit(self, prompt: dict[str, Any]) -> str | Answer:
        """The prompt's id, or the answer where ComfyUI refuses it."""
        try:
            return str(self.call("/prompt", {"prompt": prompt})["prompt_id"])
        except urllib.error.HTTPError as error:
            return Answer("rejected", error=error.read().decode())

    def wait(self, prompt_id: str, timeout_s: float = 120) -> Answer:
        until = time.monotonic() + timeout_s
        while not (history := self.call(f"/history/{prompt_id}")):
            if time.monotonic() > until:
                raise TimeoutError(f"no answer in {timeout_s} s:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        entry = history[prompt_id]
        messages = dict(entry["status"]["messages"])
        ended = ("execution_success", "execution_interrupted", "execution_error")
        status = next(name for name in ended if name in messages)
        return Answer(
            status.removeprefix("execution_"),
            entry["outputs"],
            tuple(messages.get("execution_cached", {}).get("nodes", ())),
            str(messages.get("execution_error", {}).get("exception_message", "")),
        )

    def run(self, prompt: dict[str, Any]) -> Answer:
        submitted = self.submit(prompt)
        return submitted if isinstance(submitted, Answer) else self.wait(submitted)


def link_pack(server: ComfyServer, source: Path, name: str) -> None:
    (server.base / "custom_nodes" / name).symlink_to(source)


def copy_pack(server: ComfyServer, source: Path, name: str) -> None:
    shutil.copytree(source, server.base / "custom_nodes" / name)


def api_format(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """A workflow as the editor saves it → the prompt it would send.

    ``nodes`` is ComfyUI's ``/object_info``. Widget values are saved as a list, in the order of the
    widgets; a seed has one more, what becomes of it after the run.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        wired = {slot["name"]: slot["link"] for slot in node["inputs"] if slot["link"] is not None}
        described = nodes[node["type"]]["input"]
        values = iter(node.get("widgets_values") or [])
        inputs = {}
        for name, (kind, options) in {
            name: (entry[0], entry[1] if len(entry) > 1 else {})
            for part in ("required", "optional")
            for name, entry in described.get(part, {}).items()
        }.items():
            is_widget = isinstance(kind, list) or kind in (
                "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO",
            )  # fmt: skip
            if is_widget and not options.get("forceInput"):
                inputs[name] = next(values)
                if options.get("control_after_generate") or options.get("image_upload"):
                    next(values)
            if name in wired:
                inputs[name] = sources[wired[name]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
