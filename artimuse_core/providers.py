"""Which of onnxruntime's providers compute a bundle: TensorRT, then CUDA, then the CPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .errors import ModelError, UsageError

log = logging.getLogger(__name__)

TENSORRT, CUDA, CPU = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)
_DEVICES = {TENSORRT: "tensorrt", CUDA: "cuda", CPU: "cpu"}
_NO_GPU = (
    "this onnxruntime has no {what}; pip uninstall onnxruntime onnxruntime-gpu, then "
    "pip install onnxruntime-gpu"
)


def choose(
    device: str, available: Sequence[str], *, precision: str = "fp32", tensorrt: bool = False
) -> list[str]:
    """Providers to ask for, the best first; what one cannot compute goes to the next.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, … or ``tensorrt``.
        available: what this onnxruntime was built with.
        precision: of the bundle; the CPU computes nothing in bf16.
        tensorrt: whether the bundle was exported for TensorRT, which ``auto`` then prefers.

    Raises UsageError for a device that is not to be had: asking for one by name never falls back.
    """
    name = device.partition(":")[0]
    if name == "tensorrt":
        if not tensorrt:
            raise UsageError(
                f"device {device!r}: this bundle has no plan for TensorRT; make one with "
                "artimuse export tensorrt"
            )
        _require(device, TENSORRT, "TensorRT", available)
        wanted = [TENSORRT, CUDA]
    elif name == "cuda":
        _require(device, CUDA, "CUDA", available)
        wanted = [CUDA]
    elif name == "cpu":
        wanted = []
    elif name == "auto":
        wanted = [TENSORRT, CUDA] if tensorrt else [CUDA]
        missing = [_DEVICES[one] for one in wanted if one not in available]
        if tensorrt and missing:
            log.warning(
                "this bundle was made for TensorRT, but this onnxruntime has no %s: computing on "
                "%s", " and no ".join(missing), _DEVICES[CUDA if CUDA in available else CPU],
            )  # fmt: skip
    else:
        raise UsageError(f"device {device!r}: an ONNX bundle runs on cpu, cuda or tensorrt")
    chosen = [one for one in wanted if one in available]
    if not chosen and precision == "bf16":
        raise ModelError(
            "this bundle computes in bf16, which onnxruntime does on a GPU only; export it in fp32 "
            "or int8 for the CPU"
        )
    return [*chosen, CPU]


def _require(device: str, provider: str, what: str, available: Sequence[str]) -> None:
    if provider not in available:
        raise UsageError(f"device {device!r}: {_NO_GPU.format(what=what)}")


def started(asked: Sequence[str], used: Sequence[str], device: str) -> str:
    """The name of the device that computes, out of what a session says it uses.

    onnxruntime drops a provider whose libraries do not load and goes on without: that is an error
    where a device was asked for by name, and a warning where it was not.
    """
    first = used[0]
    if first != asked[0]:
        reason = f"onnxruntime could not start {_DEVICES[asked[0]]}, see its log"
        if device != "auto":
            raise ModelError(f"device {device!r}: {reason}")
        log.warning("%s: computing on %s", reason, _DEVICES[first])
    return _DEVICES[first]
