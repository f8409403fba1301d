"""Which models ComfyUI can offer, and the loaded ones, whose memory ComfyUI manages."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as memory
import folder_paths

from ..artimuse_core.bundle import is_bundle, read
from ..artimuse_core.engines import DEVICES, TorchEngine
from ..artimuse_core.errors import MissingExtraError, ModelError, UsageError
from ..artimuse_core.models import NANO, PUBLISHED, locate
from ..artimuse_core.scorer import DEFAULT_BATCH_SIZE, Scorer

if TYPE_CHECKING:
    from ..artimuse_core.critic import Critic
    from ..artimuse_core.torch_graph import GraphRunner

log = logging.getLogger(__name__)

FOLDER = "artimuse"
"""Name of our folder below ComfyUI's ``models``; each subfolder is one model."""
EXTENSIONS = frozenset({".safetensors", ".onnx"})

_BYTES_PER_IMAGE = 256 * 2**20
"""What one 448x448 image takes while it is scored, beside the weights: attention of the vision
tower, keys and values of every layer. Generous; ComfyUI keeps so much free."""


@dataclass(frozen=True)
class LoadedModel:
    """What flows through an ARTIMUSE_MODEL wire."""

    scorer: Scorer
    directory: Path
    patcher: Any = None
    """ComfyUI's ModelPatcher around the torch graph; None where ComfyUI cannot move the weights:
    in onnxruntime, and quantised."""

    def ready(self) -> Scorer:
        """The scorer, with its weights where it computes."""
        if self.patcher is not None:
            side = self.scorer.input_size / 448
            memory.load_models_gpu(
                [self.patcher],
                memory_required=int(DEFAULT_BATCH_SIZE * _BYTES_PER_IMAGE * side * side),
                # A partial load would leave plain layers behind on the CPU.
                force_full_load=True,
            )
        return self.scorer

    def critic(self) -> Critic:
        """A critic over the same model. Raises UsageError for one that only scores."""
        engine = self.ready().engine
        if isinstance(engine, TorchEngine):
            from ..artimuse_core import checkpoint, critic_torch

            if checkpoint.writes(checkpoint.read_config(self.directory)):
                return critic_torch.over(
                    engine.runner, self.directory, self.scorer.name, self.scorer.max_pixels
                )
        elif is_bundle(self.directory) and read(self.directory).writer:
            return self._bundle_critic
        raise UsageError(
            f"{self.scorer.name} scores only and writes no critiques; wire an ArtiMuse Loader with "
            f"a checkpoint that was trained to write: {', '.join(PUBLISHED)}, or a folder in "
            f"{model_root()}"
        )

    @cached_property
    def _bundle_critic(self) -> Critic:
        """Over graphs of its own, which are read once and not at each run of a node."""
        from ..artimuse_core.critic import Critic

        return Critic.load(
            self.directory, self.scorer.engine.device, max_pixels=self.scorer.max_pixels
        )


def model_root() -> Path:
    """Where a user puts models: ``models/artimuse``."""
    return Path(folder_paths.models_dir, FOLDER)


def model_folders() -> dict[str, Path]:
    """Models by name: the subfolders of every ``models/artimuse`` ComfyUI knows."""
    folder_paths.add_model_folder_path(FOLDER, str(model_root()))
    folder_paths.folder_names_and_paths[FOLDER][1].update(EXTENSIONS)
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        if root.is_dir():
            for folder in sorted(path for path in root.iterdir() if path.is_dir()):
                found.setdefault(folder.name, folder)
    return found


def model_names() -> list[str]:
    """nano, the folders, and the published checkpoints, which are downloaded on first use."""
    return list(dict.fromkeys([NANO, *model_folders(), *PUBLISHED]))


def check_name(name: str) -> None:
    """Raises UsageError unless ``name`` is one of :func:`model_names`.

    ComfyUI does not check a combo's value against its options, so a workflow could name any path:
    only names that are offered are looked up.
    """
    if name not in model_names():
        raise UsageError(
            f"unknown model {name!r}; known: {', '.join(model_names())}. "
            f"Put a model's folder into {model_root()}"
        )


def find(name: str) -> Path:
    """The directory of one of :func:`model_names`; a published one may be downloaded first."""
    check_name(name)
    try:
        return locate(NANO if name == NANO else model_folders().get(name, name))
    except ModelError as error:
        raise ModelError(f"{error}; or put its files into {model_root() / name}") from error


def load(
    name: str, device: str = "auto", dtype: str = "auto", quantize: str = "none"
) -> LoadedModel:
    """A model by name; kept, so that a second run does not load again."""
    directory = find(name)
    newest = max((file.stat().st_mtime_ns for file in directory.iterdir()), default=0)
    return _load(name, directory, device, dtype, quantize, newest)


@lru_cache(maxsize=2)
def _load(
    name: str, directory: Path, device: str, dtype: str, quantize: str, newest: int
) -> LoadedModel:
    """``newest``: when its files last changed, so that a replaced model is loaded anew."""
    if is_bundle(directory):
        scorer = Scorer.load(directory, device, dtype, quantize=quantize)
        log.info("%s on %s: %s", scorer.name, scorer.engine.device, scorer.card)
        return LoadedModel(scorer, directory)
    try:
        from ..artimuse_core import checkpoint, torch_graph
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "torch") from error

    target = memory.get_torch_device()
    if target.type == "cuda" and device in ("auto", "cuda"):
        # Make room: the weights go straight to where they compute.
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        memory.free_memory(size, target)
    if device == "auto" and target.type in DEVICES:
        device = str(target)  # ComfyUI may have been told to leave the GPU alone
    # Kept, the text weights are there once for scores and critiques.
    keep_text = checkpoint.writes(checkpoint.read_config(directory))
    runner = torch_graph.GraphRunner(
        directory, device=device, dtype=dtype, quantize=quantize, keep_text=keep_text
    )
    engine = TorchEngine.over(runner)
    scorer = Scorer(
        engine,
        name=name,
        input_size=engine.input_size,
        tokens=engine.tokens,
        card=f"checkpoint in {directory}",
    )
    log.info("%s on %s in %s", name, runner.device, runner.dtype)
    # Quantised layers keep their scales beside their weights and do not survive being moved.
    return LoadedModel(scorer, directory, _patcher(runner) if quantize == "none" else None)


def _patcher(runner: GraphRunner) -> Any:
    """ComfyUI's handle on the graph: it may move the weights away, and `ready` brings them back."""
    from comfy.model_patcher import ModelPatcher

    graph: Any = runner.graph
    # Where ComfyUI finds it at first; it keeps this up to date itself.
    graph.device = comfyui_name(runner.device, memory.get_torch_device())
    offload = memory.unet_offload_device()
    return ModelPatcher(graph, load_device=graph.device, offload_device=offload)


def comfyui_name(device: Any, comfyui: Any) -> Any:
    """``device`` as ComfyUI writes it: it compares devices when it makes room, and ``cuda`` is not
    equal to ``cuda:0``."""
    same = device.type == comfyui.type and device.index in (None, comfyui.index)
    return comfyui if same else device
