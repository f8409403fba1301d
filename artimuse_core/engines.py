"""Backends behind one seam: ``score_logits(pixel_values) -> score_logits``.

Most can hand out the image's embedding in the same pass. An engine knows tensors and devices,
nothing of files, tokens or scores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from . import providers, tensorrt
from .bundle import Manifest, check_files
from .errors import MissingExtraError, ModelError, OutOfMemoryError
from .images import one_line
from .score_tokens import ScoreTokens

if TYPE_CHECKING:
    from .torch_graph import GraphRunner

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

DEVICES = ("auto", "cpu", "cuda", "mps", "tensorrt")
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
    """onnxruntime over a bundle's graph, on the best provider it has for it."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        device: str = "auto",
        threads: int = 0,
        graph: bytes | None = None,
    ) -> None:
        """
        Args:
            device: see :func:`.providers.choose`.
            threads: within one run; 0 leaves it to onnxruntime, one per core.
            graph: run this one over the bundle's data files instead of the bundle's own.
        """
        check_files(directory, manifest.files)
        plan = tensorrt.plan_of(manifest)
        self._index = int(device.partition(":")[2] or 0)
        asked = providers.choose(
            device,
            onnxruntime_providers(),
            precision=manifest.precision if graph is None else "fp32",
            tensorrt=plan is not None,
        )
        machine = _tensorrt_machine(asked, device, self._index)
        model = graph or (directory / manifest.graph).read_bytes()
        if plan and machine:
            wanted = tensorrt.facts(manifest, plan, machine)
            home = tensorrt.home(directory, manifest, plan, machine)
            settings = tensorrt.provider_options(plan, manifest.input_size, home, self._index)
            self._session = tensorrt.start(
                lambda: onnx_session(model, directory, asked, threads, self._index, settings),
                lambda path: onnx_session(path, directory, asked, threads, self._index),
                home,
                wanted,
            )
        else:
            self._session = onnx_session(model, directory, asked, threads, self._index)
        self._device = providers.started(asked, self._session.get_providers(), device)
        self._memory = "cpu" if self._device == "cpu" else "cuda"
        self._least = manifest.batch or (plan.min_batch if plan else 1)
        self._most = manifest.batch or (plan.max_batch if plan else 0)
        self._outputs = {output.name for output in self._session.get_outputs()}

    @property
    def device(self) -> str:
        return self._device

    @property
    def embeds(self) -> bool:
        return "embedding" in self._outputs

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self._run(["score_logits"], pixel_values)[0]

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        if not self.embeds:
            raise ModelError("this bundle's graph gives no embedding; export it again")
        logits, embedding = self._run(["score_logits", "embedding"], pixel_values)
        return logits, embedding

    def _run(self, outputs: list[str], pixel_values: Floats) -> list[Floats]:
        """The outputs for any number of images, in runs of the size that the graph takes."""
        size = self._most or len(pixel_values)
        parts = []
        for start in range(0, len(pixel_values), size):
            part = pixel_values[start : start + size]
            lacking = max(0, self._least - len(part))
            padded = np.pad(part, [(0, lacking), (0, 0), (0, 0), (0, 0)]) if lacking else part
            parts.append([answer[: len(part)] for answer in self._run_once(outputs, padded)])
        return [np.concatenate(answers) for answers in zip(*parts, strict=True)]

    def _run_once(self, outputs: list[str], pixel_values: Floats) -> list[Floats]:
        try:
            if self._memory == "cpu":
                answers = self._session.run(outputs, {"pixel_values": pixel_values})
            else:
                answers = self._run_bound(outputs, pixel_values)
        except Exception as error:
            text = one_line(error)
            if "allocate memory" in text or "out of memory" in text:
                raise OutOfMemoryError(
                    f"{self._device} ran out of memory at a batch of {len(pixel_values)}"
                ) from error
            raise ModelError(f"onnxruntime failed: {text}") from error
        return [np.asarray(answer, np.float32) for answer in answers]

    def _run_bound(self, outputs: list[str], pixel_values: Floats) -> list[Floats]:
        """With input and output bound to the GPU's memory: one copy in, only ``outputs`` out."""
        import onnxruntime

        binding = self._session.io_binding()
        pixels = onnxruntime.OrtValue.ortvalue_from_numpy(pixel_values, self._memory, self._index)
        binding.bind_ortvalue_input("pixel_values", pixels)
        for output in outputs:
            binding.bind_output(output, self._memory, self._index)
        self._session.run_with_iobinding(binding)
        answers: list[Floats] = binding.copy_outputs_to_cpu()
        return answers


def onnxruntime_providers() -> list[str]:
    """What the installed onnxruntime was built with."""
    import onnxruntime

    available: list[str] = onnxruntime.get_available_providers()
    return available


def _tensorrt_machine(asked: list[str], device: str, index: int) -> tensorrt.Machine | None:
    """What TensorRT engines are built for here; takes TensorRT out of ``asked`` where none is."""
    if asked[0] != providers.TENSORRT:
        return None
    try:
        return tensorrt.this_machine(index)
    except ModelError as error:
        if device != "auto":
            raise
        del asked[0]
        log.warning("no TensorRT here (%s): trying %s", error, " and ".join(asked))
        return None


def onnx_session(
    graph: bytes | Path,
    directory: Path,
    asked: Sequence[str],
    threads: int = 0,
    index: int = 0,
    first_options: Mapping[str, str] | None = None,
) -> Any:
    """An onnxruntime session over a graph whose data files lie in ``directory``.

    Args:
        asked: providers, the best first; ``first_options`` are that one's.
        index: number of the GPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle workers must not spin: the decoding threads need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(directory.resolve())
    )
    settings: list[Mapping[str, str]] = [
        {} if one == providers.CPU else {"device_id": str(index)} for one in asked
    ]
    settings[0] = first_options or settings[0]
    try:
        session = onnxruntime.InferenceSession(graph, options, list(asked), settings)
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot load the graph in {directory}: {one_line(error)}"
        ) from error
    log.info("onnxruntime %s on %s", onnxruntime.__version__, session.get_providers()[0])
    return session


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
        self.runner = torch_graph.GraphRunner(
            directory,
            device=device,
            dtype=dtype,
            quantize=quantize,
            keep_text=False,
            compiled=compiled,
        )
        log.info("torch on %s in %s", self.runner.device, self.runner.dtype)

    @classmethod
    def over(cls, runner: GraphRunner) -> TorchEngine:
        """Over weights that a critic holds as well, so that they are there once."""
        engine = cls.__new__(cls)
        engine.runner = runner
        return engine

    @property
    def input_size(self) -> int:
        """S, pixels."""
        return self.runner.graph.input_size

    @property
    def tokens(self) -> ScoreTokens:
        """What the columns of the logits stand for."""
        return self.runner.tokens

    @property
    def device(self) -> str:
        return str(self.runner.device)

    def score_logits(self, pixel_values: Floats) -> Floats:
        return self.runner.score_logits(pixel_values)

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        return self.runner.score_and_embed(pixel_values)


def default_threads() -> int:
    """Cores this process may use (a container's or taskset's limit, not the machine's size)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
