"""A bundle's TensorRT engine: built for one GPU, driver and version, kept beside the bundle.

onnxruntime's TensorRT provider builds the engine when a session starts, for the batches of the
bundle's plan, and writes it with a small "EP context" model that wraps it; later sessions start
from that. An engine of another machine or version does not run, so each has a directory of its own,
named by what it was built for, and one that is missing, stale or damaged is built again.

Written after onnxruntime's documentation; not run on a GPU yet.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256 as hash_of
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .bundle import Manifest, sha256
from .errors import ModelError, UsageError
from .images import one_line

log = logging.getLogger(__name__)

CONTEXT = "score_ctx.onnx"
"""The EP context model; onnxruntime names it so after the graph's file."""
FACTS = "engine.json"
"""What an engine was built for, and the hash of its files; written last."""


@dataclass(frozen=True)
class Plan:
    """What an engine is to be good for."""

    precision: str
    """Of the graph: fp16, bf16 or fp8. TensorRT takes it from there."""
    min_batch: int = 1
    opt_batch: int = 8
    """The batch that kernels are chosen for."""
    max_batch: int = 32
    workspace_gb: float = 4.0
    """Memory the builder may try tactics with."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise UsageError(
                "expected 1 ≤ min-batch ≤ opt-batch ≤ max-batch, got "
                f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
            )
        if not self.workspace_gb > 0:
            raise UsageError(f"expected a workspace-gb above 0, got {self.workspace_gb}")

    def shapes(self, size: int) -> dict[str, str]:
        """The batch profile as TensorRT spells it, by ``min``, ``opt`` and ``max``."""
        batches = {"min": self.min_batch, "opt": self.opt_batch, "max": self.max_batch}
        return {name: f"pixel_values:{batch}x3x{size}x{size}" for name, batch in batches.items()}


def plan_of(manifest: Manifest) -> Plan | None:
    """None for a bundle not made for TensorRT. Raises ModelError for a plan of nonsense."""
    try:
        return Plan(**manifest.tensorrt) if manifest.tensorrt else None
    except (TypeError, UsageError) as error:
        raise ModelError(
            f"{manifest.name} has no TensorRT plan of this version: {error}"
        ) from error


@dataclass(frozen=True)
class Machine:
    """What an engine depends on."""

    gpu: str
    compute_capability: str
    driver: str
    tensorrt: str
    onnxruntime: str

    def __str__(self) -> str:
        return f"{self.gpu}, driver {self.driver}, TensorRT {self.tensorrt}"


def this_machine(index: int = 0) -> Machine:
    """Raises ModelError where there is no NVIDIA GPU of that number or no TensorRT."""
    import onnxruntime

    try:
        query = subprocess.run(
            ["nvidia-smi", f"--id={index}", "--format=csv,noheader",
             "--query-gpu=name,compute_cap,driver_version"],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        gpu, capability, driver = (part.strip() for part in query.stdout.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ModelError(f"nvidia-smi shows no NVIDIA GPU {index}: {one_line(error)}") from error
    found = _tensorrt_version()
    if not found:
        raise ModelError("TensorRT is not installed: pip install 'tensorrt-cu13<11'")
    return Machine(gpu, capability, driver, found, onnxruntime.__version__)


def _tensorrt_version() -> str:
    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    import ctypes.util

    library = ctypes.util.find_library("nvinfer")  # installed by the system, not by pip
    return re.sub(r".*\.so\.?", "", library) or "of the system" if library else ""


def missing(index: int = 0) -> list[str]:
    """What this machine lacks to build and run engines; empty where nothing is."""
    import onnxruntime

    lacks = []
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        lacks.append(
            "onnxruntime with its TensorRT provider (pip uninstall onnxruntime; pip install "
            "onnxruntime-gpu)"
        )
    try:
        this_machine(index)
    except ModelError as error:
        lacks.append(str(error))
    return lacks


def facts(manifest: Manifest, plan: Plan, machine: Machine) -> dict[str, Any]:
    """All that an engine is built from and for."""
    return {"files": manifest.files, "plan": asdict(plan), "machine": asdict(machine)}


def home(directory: Path, manifest: Manifest, plan: Plan, machine: Machine) -> Path:
    """Where this machine's engine of a bundle lies: beside it, or in the user's cache.

    Raises ModelError where it could lie in the cache alone and platformdirs, which finds that, is
    not installed: ComfyUI does not bring it.
    """
    text = json.dumps(facts(manifest, plan, machine), sort_keys=True)
    key = hash_of(text.encode()).hexdigest()[:16]
    beside = directory / "engines"
    if os.access(beside if beside.exists() else directory, os.W_OK):
        return beside / key
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise ModelError(
            f"no TensorRT engine can be kept in {beside}: it is read-only; make it writable, or "
            "pip install platformdirs to have it in your cache"
        ) from error
    return user_cache_path("artimuse") / "engines" / key


def provider_options(plan: Plan, size: int, home: Path, index: int = 0) -> dict[str, str]:
    """Of onnxruntime's TensorRT provider. Its engine path is relative to the context model's."""
    shapes = plan.shapes(size)
    return {
        "device_id": str(index),
        "trt_max_workspace_size": str(int(plan.workspace_gb * 2**30)),
        "trt_fp16_enable": str(plan.precision in ("fp16", "fp8")),
        "trt_bf16_enable": str(plan.precision == "bf16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(home),
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(home),
        "trt_ep_context_embed_mode": "0",
        "trt_profile_min_shapes": shapes["min"],
        "trt_profile_opt_shapes": shapes["opt"],
        "trt_profile_max_shapes": shapes["max"],
    }


def start(
    open_graph: Callable[[], Any],
    open_context: Callable[[Path], Any],
    home: Path,
    wanted: dict[str, Any],
) -> Any:
    """A session from the engine in ``home``, building it first where it does not fit ``wanted``.

    Args:
        open_graph: starts a session over the bundle's graph; the provider then builds the engine.
        open_context: starts one over a context model.
        wanted: :func:`facts`.
    """
    machine = Machine(**wanted["machine"])
    try:
        reason = _unusable(home, wanted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{FACTS} cannot be read ({one_line(error)})"
    if not reason:
        try:
            # No context model where TensorRT computes a part of the graph only; the provider then
            # finds the parts' engines in its cache.
            whole = (home / CONTEXT).is_file()
            return open_context(home / CONTEXT) if whole else open_graph()
        except ModelError as error:
            reason = f"the one here does not start ({error})"
    batches = "{min_batch} to {max_batch}".format(**wanted["plan"])
    log.warning(
        "TensorRT engine for %s: %s; building it for batches of %s, which takes minutes",
        machine, reason, batches,
    )  # fmt: skip
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    session = open_graph()
    kept = (*home.glob("*.onnx"), *home.glob("*.engine"))  # the timing cache may go on changing
    files = {file.name: sha256(file) for file in sorted(kept)}
    text = json.dumps({**wanted, "engine_files": files}, indent=2)
    (home / FACTS).write_text(text + "\n", encoding="utf-8")
    return session


def _unusable(home: Path, wanted: dict[str, Any]) -> str:
    """Why the engine in ``home`` cannot be used; empty where it can."""
    if not (home / FACTS).is_file():
        others = sorted(home.parent.glob(f"*/{FACTS}")) if home.parent.is_dir() else []
        if not others:
            return "there is none yet"
        machine = Machine(**json.loads(others[0].read_text("utf-8"))["machine"])
        return f"there is none, only one for {machine}"
    stored = json.loads((home / FACTS).read_text("utf-8"))
    files = stored.pop("engine_files")
    if stored != wanted:
        return "it was built for something else"
    for name, digest in files.items():
        if not (home / name).is_file() or sha256(home / name) != digest:
            return f"{name} is missing or changed"
    return ""
