"""What makes scores comparable: the same weights, prompt, tokens, preprocessing and precision."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..artimuse_core import bundle
from ..artimuse_core.engines import OnnxEngine
from ..artimuse_core.scorer import Scorer
from .files import sha256_of
from .store import Store

DECODING = 1
"""Raised when the same file would be decoded to other pixels than before."""


def model_fingerprint(
    scorer: Scorer, directory: Path, store: Store, *, dtype: str = "auto", quantize: str = "none"
) -> str:
    """A short hash over everything of a model that can change a score, its device included.

    A bundle's manifest names the hash of its graph, which was checked when it was loaded; of a
    checkpoint all weights are hashed, once as long as the files do not change.
    """
    parts: dict[str, object] = {
        "decoding": DECODING,
        "preprocessing": dict(bundle.PREPROCESSING),
        "name": scorer.name,
        "input_size": scorer.input_size,
        "tokens": [scorer.tokens.name, list(scorer.tokens.tokens), list(scorer.tokens.values)],
        "engine": type(scorer.engine).__name__,
        "device": scorer.engine.device.partition(":")[0],
        "dtype": f"{dtype}, quantize {quantize}",
    }
    if isinstance(scorer.engine, OnnxEngine) and bundle.is_bundle(directory):
        manifest = bundle.read(directory)
        parts |= {"graph": manifest.graph_sha256, "precision": manifest.precision}
    else:
        files = (p for p in sorted(directory.iterdir()) if p.suffix in (".json", ".safetensors"))
        parts["files"] = {file.name: store.file_hash(file, sha256_of) for file in files}
        store.commit()
    canonical = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]
