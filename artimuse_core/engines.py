"""Backends behind one seam: ``score_logits(pixel_values) -> score_logits``.

Most can hand out the image's embedding in the same pass. An engine knows tensors and devices,
nothing of files, tokens or scores.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .bundle import Manifest, check_graph
from .errors import MissingExtraError, ModelError, OutOfMemoryError, UsageError
from .images import one_line

if TYPE_CHECKING:
    from .torch_graph import GraphRunner

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "fp32", "bf16", "fp16")


class Engine(Protocol):
    """Anything that turns pixel values into score logits."""

    @property
    def device(self) -> str:
        """Where it computes, for messages: ``cpu``, ``cuda:0``, …"""
        ...

    def score_logits(self, pixel_values: Floats) -> Floats:
        """(B, 3, S, S) fp32 → (B, K) fp32.

        Raises OutOfMemoryError where a smaller batch may do, ModelError if the backend fails.
        """
        ...


@runtime_checkable
class EmbeddingEngine(Engine, Protocol):
    """An engine that can also tell what the vision tower saw."""

    @property
    def embeds(self) -> bool:
        """Whether this graph gives the embedding."""
        ...

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        """(B, 3, S, S) fp32 → (B, K) logits and (B, W) unit vectors, fp32, from one forward pass.

        Raises as :meth:`score_logits` does.
        """
        ...


class OnnxEngine:
    """onnxruntime over a bundle's graph: CPU, or CUDA where onnxruntime-gpu is installed."""

    def __init__(
        self, directory: Path, manifest: Manifest, *, device: str = "auto", threads: int = 0
    ) -> None:
        """``threads``: within one run; 0 leaves it to onnxruntime, one per core."""
        import onnxruntime

        available = onnxruntime.get_available_providers()
        providers = ["CPUExecutionProvider"]
        if device.startswith("cuda") or (device == "auto" and "CUDAExecutionProvider" in available):
            if "CUDAExecutionProvider" not in available:
                raise UsageError(
                    f"device {device!r}: this onnxruntime has no CUDA; pip uninstall onnxruntime "
                    "onnxruntime-gpu, then pip install onnxruntime-gpu"
                )
            providers.insert(0, "CUDAExecutionProvider")
        elif device not in ("auto", "cpu"):
            raise UsageError(f"device {device!r}: an ONNX bundle runs on cpu or cuda")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Idle workers must not spin: the decoding threads need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = check_graph(directory, manifest)
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:
            raise ModelError(
                f"onnxruntime cannot load {directory / manifest.graph}: {one_line(error)}"
            ) from error
        used = self._session.get_providers()[0]
        self._device = "cuda" if used.startswith("CUDA") else "cpu"
        if device.startswith("cuda") and self._device != "cuda":
            raise ModelError(f"device {device!r}: onnxruntime could not start CUDA, see its log")
        log.info("onnxruntime %s on %s", onnxruntime.__version__, used)

    @property
    def device(self) -> str:
        return self._device

    @property
    def embeds(self) -> bool:
        return "embedding" in {output.name for output in self._session.get_outputs()}

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self._run(["score_logits"], pixel_values)[0]

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        if not self.embeds:
            raise ModelError("this bundle's graph gives no embedding; export it again")
        logits, embedding = self._run(["score_logits", "embedding"], pixel_values)
        return logits, embedding

    def _run(self, outputs: list[str], pixel_values: Floats) -> list[Floats]:
        try:
            answers = self._session.run(outputs, {"pixel_values": pixel_values})
        except Exception as error:
            text = one_line(error)
            if "allocate memory" in text or "out of memory" in text:
                raise OutOfMemoryError(
                    f"{self._device} ran out of memory at a batch of {len(pixel_values)}"
                ) from error
            raise ModelError(f"onnxruntime failed: {text}") from error
        return [np.asarray(answer, np.float32) for answer in answers]


class TorchEngine:
    """The scoring graph in torch over a checkpoint of any layout."""

    embeds = True

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "none",
        compiled: bool = False,
    ) -> None:
        try:
            from . import torch_graph
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "torch") from error
        self._runner = torch_graph.GraphRunner(
            directory,
            device=device,
            dtype=dtype,
            quantize=quantize,
            keep_text=False,
            compiled=compiled,
        )
        log.info("torch on %s in %s", self._runner.device, self._runner.dtype)

    @classmethod
    def over(cls, runner: GraphRunner) -> TorchEngine:
        """Over weights that a critic holds as well, so that they are there once."""
        engine = cls.__new__(cls)
        engine._runner = runner
        return engine

    @property
    def input_size(self) -> int:
        """S, pixels."""
        return self._runner.graph.input_size

    @property
    def device(self) -> str:
        return str(self._runner.device)

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self._runner.score_logits(pixel_values)

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        return self._runner.score_and_embed(pixel_values)


def default_threads() -> int:
    """Cores this process may use (a container's or taskset's limit, not the machine's size)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
