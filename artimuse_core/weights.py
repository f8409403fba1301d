"""Tensors of a checkpoint directory: listed from the shards' headers, then read shard by shard.

Only safetensors. A shard's tensors stay mapped to its file until they are cast or moved, so loading
needs at most one shard of memory beside the model itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from .errors import ModelError
from .images import one_line

INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies and what it is, without its values."""

    file: Path
    shape: tuple[int, ...]


def listing(directory: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint by its stored name; the LoRA factors of an adapter apart.

    Raises ModelError for pickled, missing, truncated or foreign files.
    """
    found: dict[str, Stored] = {}
    for file in _shards(directory):
        with _opened(file, "cpu") as shard:
            for name in shard.keys():  # noqa: SIM118 (no mapping)
                found[name] = Stored(file, tuple(shard.get_slice(name).get_shape()))
    return found


def read(
    tensors: Mapping[str, Stored], device: str | torch.device = "cpu"
) -> Iterator[dict[str, torch.Tensor]]:
    """The listed tensors on ``device``, the tensors of one file at a time."""
    for file in sorted({stored.file for stored in tensors.values()}):
        with _opened(file, str(device)) as shard:
            yield {
                name: shard.get_tensor(name)
                for name, stored in tensors.items()
                if stored.file == file
            }


def _opened(file: Path, device: str):  # type: ignore[no-untyped-def]  # safetensors has no types
    try:
        return safe_open(file, framework="pt", device=device)
    except Exception as error:  # safetensors raises its own type, and OSError
        raise ModelError(
            f"cannot read {file}: {one_line(error)}; is it complete? Download it again"
        ) from error


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"cannot read {index}: {one_line(error)}") from error
        gone = [name for name in names if not (directory / name).is_file()]
        if gone:
            raise ModelError(
                f"{len(gone)} of {len(names)} shards named in {index} are missing "
                f"(first: {gone[0]}); download the rest"
            )
        return [directory / name for name in names]
    files = [f for f in sorted(directory.glob("*.safetensors")) if f.name != ADAPTER_WEIGHTS]
    if not files and not (directory / ADAPTER_WEIGHTS).is_file():
        pickled = [f for kind in ("bin", "pt", "pth") for f in sorted(directory.glob(f"*.{kind}"))]
        reason = (
            f"{pickled[0].name} is a pickle, which can run code when opened; convert it first"
            if pickled
            else "expected *.safetensors"
        )
        raise ModelError(f"no usable weights in {directory}: {reason}")
    return files
