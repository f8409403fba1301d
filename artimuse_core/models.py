"""From what a user calls a model to the directory it lies in, downloaded if need be."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
import shutil
from pathlib import Path

from .errors import MissingExtraError, ModelError, UsageError
from .images import one_line

log = logging.getLogger(__name__)

NANO = "nano"
PUBLISHED = {
    "artimuse": "Thunderbolt215215/ArtiMuse",
    "artimuse-ava": "Thunderbolt215215/ArtiMuse_AVA",
    "artimuse-para": "Thunderbolt215215/ArtiMuse_PARA",
    "artimuse-tad66k": "Thunderbolt215215/ArtiMuse_TAD66K",
    "artimuse-flickr-aes": "Thunderbolt215215/ArtiMuse_FLICKR-AES",
}
"""The authors' checkpoints: our names → ids on the Hugging Face hub."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.safetensors", "*.txt")
"""Configuration, weights, tokenizer; never code, never pickles."""


def locate(model: str | Path) -> Path:
    """The directory of a model given by name, hub id or path.

    A published model is downloaded on first use, after saying how large it is; later uses find it
    in the hub's cache and need no network. Raises UsageError for an unknown name, ModelError where
    a download is not possible.
    """
    if str(model) == NANO:
        return Path(__file__).parent / NANO
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    repository = PUBLISHED.get(str(model), str(model))
    if isinstance(model, Path) or not _HUB_ID.fullmatch(repository):
        raise UsageError(
            f"unknown model {str(model)!r}: expected {NANO!r}, one of {', '.join(PUBLISHED)}, a "
            "hub id (owner/name), or a directory with a checkpoint, an adapter or an ONNX bundle"
        )
    return _download(repository)


def name_of(directory: Path) -> str:
    """What the model in ``directory`` is called: our name or hub id of a download, else the folder.

    The hub's cache calls a download by its commit: ``models--OWNER--NAME/snapshots/COMMIT``.
    """
    directory = directory.resolve()
    snapshots, repository = directory.parent, directory.parent.parent.name
    if snapshots.name != "snapshots" or not repository.startswith("models--"):
        return directory.name
    hub_id = repository.removeprefix("models--").replace("--", "/", 1)
    return next((name for name, known in PUBLISHED.items() if known == hub_id), hub_id)


def _download(repository: str) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "torch") from error

    cached = _cached(repository)
    if cached is not None:
        return cached
    try:
        info = huggingface_hub.HfApi().model_info(repository, files_metadata=True)
        wanted = [
            file
            for file in info.siblings or []
            if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in _FILES)
        ]
        if not any(file.rfilename.endswith(".safetensors") for file in wanted):
            raise ModelError(f"{repository} on the hub holds no safetensors weights")
        size = sum(file.size or 0 for file in wanted)
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        _require_space(cache, size)
        log.warning("downloading %s: %.1f GB into %s", repository, size / 1e9, cache)
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_FILES)))
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise ModelError(
            f"the hub has no model {repository}, or it needs a token (set HF_TOKEN); a local "
            "directory of that name does not exist either"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError) as error:
        raise ModelError(_unreachable(repository, error)) from error
    except ModelError:
        raise
    except Exception as error:  # whatever HTTP library the hub client uses raises its own
        raise ModelError(_unreachable(repository, error)) from error


def _unreachable(repository: str, error: Exception) -> str:
    return (
        f"cannot download {repository} ({one_line(error)[:200]}); fetch it elsewhere with "
        f"'hf download {repository}' and give the directory as the model"
    )


def _cached(repository: str) -> Path | None:
    """A complete copy in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = Path(
            snapshot_download(repository, allow_patterns=list(_FILES), local_files_only=True)
        )
    except (LocalEntryNotFoundError, OSError):
        return None
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return directory if all((directory / shard).is_file() for shard in shards) else None
    complete = any(directory.glob("*.safetensors")) and any(directory.glob("*config.json"))
    return directory if complete else None


def _require_space(cache: Path, size: int) -> None:
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise ModelError(
            f"the download needs {size / 1e9:.1f} GB, {there} has {free / 1e9:.1f} GB free; free "
            "some, or point HF_HOME at another disk"
        )
