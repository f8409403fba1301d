"""As much of ComfyUI's V3 API as the nodes use, with the real one's signatures (0.3.64).

`test_comfy_integration.py` compares the tables here with a real ComfyUI where there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

_INPUT = {"id", "display_name", "optional", "tooltip", "lazy"}
_WIDGET = _INPUT | {"default", "socketless", "force_input"}
_NUMBER = _WIDGET | {"min", "max", "step", "control_after_generate", "display_mode"}
INPUTS = {
    "Image": _INPUT,
    "Latent": _INPUT,
    "Mask": _INPUT,
    "AnyType": _INPUT,
    "Custom": _INPUT,
    "Boolean": _WIDGET | {"label_on", "label_off"},
    "Int": _NUMBER,
    "Float": _NUMBER - {"control_after_generate"} | {"round"},
    "String": _WIDGET | {"multiline", "placeholder", "dynamic_prompts"},
    "Combo": _WIDGET - {"force_input"} | {"options"},
}
"""What each type's Input takes."""
OUTPUT = {"id", "display_name", "tooltip", "is_output_list"}
TYPES = {
    "Image": "IMAGE",
    "Latent": "LATENT",
    "Mask": "MASK",
    "AnyType": "*",
    "Boolean": "BOOLEAN",
    "Int": "INT",
    "Float": "FLOAT",
    "String": "STRING",
    "Combo": "COMBO",
}


class Socket:
    def __init__(self, allowed: set[str], kind: str, id: str, **options: Any) -> None:
        assert {"id", *options} <= allowed, f"{kind}: {set(options) - allowed}"
        self.kind, self.id, self.options = kind, id, options


def _type(kind: str, name: str = "Custom") -> SimpleNamespace:
    def make_input(id: str, **options: Any) -> Socket:
        return Socket(INPUTS[name], kind, id, **options)

    def make_output(id: str, **options: Any) -> Socket:
        return Socket(OUTPUT, kind, id, **options)

    return SimpleNamespace(Input=make_input, Output=make_output)


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Socket] = field(default_factory=list)
    outputs: list[Socket] = field(default_factory=list)
    hidden: list[Any] | None = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class ComfyNode:
    hidden: Any = None


class NodeOutput:
    def __init__(
        self,
        *args: Any,
        ui: dict[str, Any] | None = None,
        expand: dict[str, Any] | None = None,
        block_execution: str | None = None,
    ) -> None:
        self.args, self.ui = args, ui


class ExecutionBlocker:
    def __init__(self, message: str | None) -> None:
        self.message = message


class InterruptedRunError(Exception):
    """What ComfyUI raises when the user stops a run."""


class ModelPatcher:
    def __init__(self, model: Any, load_device: Any, offload_device: Any, size: int = 0) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


def install(monkeypatch: Any, home: Path) -> SimpleNamespace:
    """Put stand-ins for ComfyUI's modules into ``sys.modules``; returns their switches."""
    state = SimpleNamespace(
        interrupt_after=None, progress=[], texts=[], loaded=[], args=SimpleNamespace()
    )
    state.args.disable_metadata = False
    output = home / "output"

    class ProgressBar:
        def __init__(self, total: int, node_id: str | None = None) -> None:
            self.total = total

        def update(self, value: int) -> None:
            state.progress.append((value, self.total))

    def throw() -> None:
        done = len(state.progress) + len(state.texts)
        if state.interrupt_after is not None and done >= state.interrupt_after:
            raise InterruptedRunError

    def load_models_gpu(
        models: list[Any],
        memory_required: int = 0,
        force_patch_weights: bool = False,
        minimum_memory_required: int | None = None,
        force_full_load: bool = False,
    ) -> None:
        state.loaded.append((models, memory_required, force_full_load))

    def get_save_image_path(
        filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
    ) -> tuple[str, str, int, str, str]:
        folder = Path(output_dir, filename_prefix).parent
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(filename_prefix).name
        counter = 1 + len(list(folder.glob(f"{name}_*")))
        return str(folder), name, counter, str(folder.relative_to(output_dir)), filename_prefix

    folders: dict[str, tuple[list[str], set[str]]] = {}

    def add_model_folder_path(folder_name: str, full_folder_path: str) -> None:
        paths, _ = folders.setdefault(folder_name, ([], set()))
        if full_folder_path not in paths:
            paths.append(full_folder_path)

    server = SimpleNamespace(send_progress_text=lambda text, node_id: state.texts.append(text))
    io = SimpleNamespace(
        ComfyNode=ComfyNode, Schema=Schema, NodeOutput=NodeOutput, Custom=_type, Hidden=Hidden,
        **{name: _type(kind, name) for name, kind in TYPES.items()},
    )  # fmt: skip
    cpu = torch.device("cpu")
    modules: dict[str, dict[str, Any]] = {
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": object},
        "comfy": {},
        "comfy.cli_args": {"args": state.args},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw,
            "get_torch_device": lambda: cpu,
            "unet_offload_device": lambda: cpu,
            "intermediate_device": lambda: cpu,
            "free_memory": lambda memory_required, device: [],
            "load_models_gpu": load_models_gpu,
        },
        "comfy_execution": {},
        "comfy_execution.graph_utils": {"ExecutionBlocker": ExecutionBlocker},
        "server": {"PromptServer": SimpleNamespace(instance=server)},
        "folder_paths": {
            "models_dir": str(home / "models"),
            "add_model_folder_path": add_model_folder_path,
            "get_folder_paths": lambda name: list(folders[name][0]),
            "folder_names_and_paths": folders,
            "get_output_directory": lambda: str(output),
            "get_save_image_path": get_save_image_path,
        },
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in modules:
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    for name in [n for n in sys.modules if n.startswith("artimuse.comfy_nodes")]:
        monkeypatch.delitem(sys.modules, name)
    return state
