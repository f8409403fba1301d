"""Models by name and from the hub, here a local one: downloaded once, without their code."""

import hashlib
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from artimuse import Scorer
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.models import locate

from .conftest import interpreter


@pytest.mark.parametrize("name", ["nanoo", "./not/there", "/not/there", "~/nope"])
def test_an_unknown_model_lists_what_is_known(name) -> None:
    with pytest.raises(UsageError, match=r"unknown model .* artimuse-ava"):
        locate(name)


def test_without_network_the_way_out_is_named(tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot download Thunderbolt215215/ArtiMuse .*directory"):
        locate("artimuse")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs, over one local directory."""

    files: Path
    served: list[str]
    sha = "a" * 40

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/tiny/tree"):
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "b" * 40}
                for f in sorted(self.files.iterdir())
            ]
            self._answer(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
        elif path.startswith("/api/models/owner/tiny"):
            siblings = [
                {"rfilename": f.name, "size": f.stat().st_size, "blobId": "b" * 40}
                for f in sorted(self.files.iterdir())
            ]
            answer = {"id": "owner/tiny", "modelId": "owner/tiny", "sha": self.sha,
                      "siblings": siblings, "private": False, "gated": False}  # fmt: skip
            self._answer(json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
        elif path.startswith("/owner/tiny/resolve/") and (self.files / Path(path).name).is_file():
            data = (self.files / Path(path).name).read_bytes()
            if body:
                self.served.append(Path(path).name)
            etag = hashlib.sha256(data).hexdigest()
            self._answer(data, {"ETag": f'"{etag}"', "X-Repo-Commit": self.sha}, body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_checkpoint, tmp_path):
    """A local hub that serves the tiny checkpoint, some code and a pickle as ``owner/tiny``."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (copy / "modeling.py").write_text("raise SystemExit('remote code ran')")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    handler = type("Hub", (_Hub,), {"files": copy, "served": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.served
    server.shutdown()
    server.server_close()


def run_locate(model: str, endpoint: str, cache: Path, offline: bool = False):
    """In a process of its own: the hub client reads its environment once."""
    import os

    script = (
        "from artimuse.artimuse_core.models import locate\n"
        "from artimuse.artimuse_core.errors import ArtiMuseError\n"
        "try:\n    print(locate(sys.argv[1]))\n"
        "except ArtiMuseError as error:\n    print('error:', error)\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip
    return subprocess.run(
        interpreter(script, model),
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def test_a_hub_model_is_downloaded_once_without_its_code(hub, tmp_path, pictures) -> None:
    endpoint, served = hub
    first = run_locate("owner/tiny", endpoint, tmp_path / "hf")
    directory = Path(first.stdout.strip())
    assert "downloading owner/tiny: 0.0 GB" in first.stderr
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(served)
    assert not {"modeling.py", "pytorch_model.bin"} & set(served)
    scorer = Scorer.load(directory, "cpu", backend="torch")
    assert scorer.name == "owner/tiny"
    (result,) = scorer.score(pictures[:1])
    assert np.isfinite(result.score)
    served.clear()
    again = run_locate("owner/tiny", endpoint, tmp_path / "hf", offline=True)
    assert Path(again.stdout.strip()) == directory
    assert served == []


def test_a_model_the_hub_does_not_have_is_one_line(hub, tmp_path) -> None:
    endpoint, _ = hub
    answer = run_locate("owner/other", endpoint, tmp_path / "hf").stdout
    assert answer.startswith("error: the hub has no model owner/other")
    assert answer.count("\n") == 1
