"""An ONNX bundle: a directory with ``manifest.json`` and the graph it describes.

The manifest is the contract between the exporter and every engine: what the graph takes, what its
columns mean, which weights it came from and how far to trust them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError, UsageError
from .preprocess import IMAGENET_MEAN, IMAGENET_STD
from .score_tokens import ScoreTokens

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
"""What torch answered to rendered pictures when the bundle was exported."""
FORMAT = 1
"""Version of the manifest; a bundle with a newer one is refused."""

PREPROCESSING: Mapping[str, Any] = {
    "colour": "RGB",
    "fit": "squash",
    "resample": "bicubic",
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
}
"""What :mod:`.preprocess` does; a bundle that wants anything else is refused."""


@dataclass(frozen=True)
class WriterFiles:
    """What a bundle holds to write critiques with; see :mod:`.critic_onnx`."""

    prefill: str
    """``pixel_values`` (1,3,S,S) → ``score_logits`` (1,K), ``cache``."""
    decode: str
    """``ids``, ``positions``, ``seen``, ``past``, ``last`` → ``logits``, ``present``."""
    tokenizer: str
    sha256: dict[str, str]
    """Of these files and of those their weights lie in."""
    score_ids: list[int]
    """Of the score tokens, in the order of the token table."""
    system_message: str
    score_question: str
    draft: bool = False
    """Whether its texts are to be marked as a draft model's."""


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds."""

    name: str
    """Model name that results carry."""
    card: str
    """One line: what this model is and how far to trust it."""
    graph: str
    """File name of the ONNX graph: ``pixel_values`` (B,3,S,S) fp32 → ``score_logits`` (B,K)."""
    graph_sha256: str
    input_size: int
    """S, pixels."""
    score_tokens: str
    """Name of the strategy, see ``score_tokens.STRATEGIES``."""
    token_table: dict[str, float]
    """Score of each token, in the order of the graph's columns."""
    precision: str
    """Of the computation: fp32, fp16, …"""
    quantization: str = ""
    """What is kept in how many bits, in words; empty where all is of the precision."""
    data_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of each further file that holds weights; empty where the graph's own file has all."""
    batch: int = 0
    """Images a run takes; 0: any number."""
    opset: int = 0
    tensorrt: dict[str, Any] = field(default_factory=dict)
    """The :class:`.tensorrt.Plan` of a bundle made for TensorRT; empty for any other."""
    writer: dict[str, Any] = field(default_factory=dict)
    """:class:`WriterFiles` of a bundle that writes critiques; empty where it scores only."""
    preprocessing: dict[str, Any] = field(default_factory=lambda: dict(PREPROCESSING))
    prompt_sha256: str = ""
    """Hash of the whole prompt text the graph holds as constants."""
    source_sha256: str = ""
    """Hash of the checkpoint's weights the graph was exported from."""
    licence: str = ""
    data: str = ""
    """What the weights were trained on."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Quality on data not trained on, with n and intervals."""
    verification: dict[str, Any] = field(default_factory=dict)
    """Agreement with torch, measured while exporting."""
    tools: dict[str, str] = field(default_factory=dict)
    """Versions the bundle was made with."""
    format: int = FORMAT

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each file that is read to score, by its name."""
        return {self.graph: self.graph_sha256, **self.data_sha256}

    def tokens(self) -> ScoreTokens:
        return ScoreTokens(
            self.score_tokens, tuple(self.token_table), tuple(self.token_table.values())
        )


def is_bundle(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def read(directory: Path) -> Manifest:
    """Read and check a bundle's manifest. Raises ModelError with the reason."""
    path = directory / MANIFEST
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    version = loaded.get("format") if isinstance(loaded, dict) else None
    if not isinstance(version, int) or version > FORMAT:
        raise ModelError(
            f"{path} has format {version!r}, this version reads up to {FORMAT}; update artimuse"
        )
    try:
        manifest = Manifest(**loaded)
        manifest.tokens()
        names = [*manifest.files, *manifest.writer.get("sha256", ())]
    except (TypeError, AttributeError, UsageError) as error:
        raise ModelError(f"{path} is no manifest of this version: {error}") from error
    if manifest.preprocessing != PREPROCESSING:
        raise ModelError(
            f"{path} asks for preprocessing {manifest.preprocessing}, this version has "
            f"{dict(PREPROCESSING)}; update artimuse"
        )
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{path} names {name!r}, which is no file of its own directory")
        if not (directory / name).is_file():
            raise ModelError(f"{directory / name} is missing; export or download the bundle again")
    return manifest


def check_files(directory: Path, files: Mapping[str, str]) -> None:
    """Compare the SHA-256 of files with their manifest's. Raises ModelError with the first."""
    with ThreadPoolExecutor(4) as pool:  # hashing lets go of the interpreter
        found = pool.map(lambda name: sha256(directory / name), files)
        for (name, wanted), got in zip(files.items(), found, strict=True):
            if got != wanted:
                raise ModelError(
                    f"{directory / name} does not match its manifest (truncated or changed); "
                    "export or download the bundle again"
                )


def sha256(*files: Path) -> str:
    """Of files of any size, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def golden_logits(directory: Path) -> npt.NDArray[np.float32]:
    """(N, K) fp32: what torch answered to the first N of ``pictures.render_pictures``."""
    path = directory / GOLDEN
    try:
        with np.load(path, allow_pickle=False) as stored:
            logits: npt.NDArray[np.float32] = stored["score_logits"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read {path}: {error}; export the bundle again") from error
    return logits


def write(directory: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")
