"""As much of ComfyUI's V3 API as the nodes use, with the real one's signatures (0.3.64)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class _Socket:
    def __init__(self, kind: str, id: str | None = None, **options: Any) -> None:
        allowed = {"display_name", "optional", "tooltip", "lazy", "default", "options"}
        allowed |= {"is_output_list"}
        assert set(options) <= allowed, options
        self.kind, self.id, self.options = kind, id, options


def _type(kind: str) -> SimpleNamespace:
    def make(id: str | None = None, **options: Any) -> _Socket:
        return _Socket(kind, id, **options)

    return SimpleNamespace(Input=make, Output=make)


@dataclass
class Schema:
    node_id: str
    display_name: str = ""
    category: str = "sd"
    inputs: list[_Socket] = field(default_factory=list)
    outputs: list[_Socket] = field(default_factory=list)
    hidden: list[Any] | None = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: dict[str, Any] | None = None) -> None:
        self.args, self.ui = args, ui


class InterruptedRunError(Exception):
    """What ComfyUI raises when the user stops a run."""


def install(monkeypatch: Any, models: Path) -> SimpleNamespace:
    """Put stand-ins for ComfyUI's modules into ``sys.modules``; returns their switches."""
    state = SimpleNamespace(interrupt_after=None, progress=[])

    class ProgressBar:
        def __init__(self, total: int, node_id: str | None = None) -> None:
            self.total = total

        def update(self, value: int) -> None:
            state.progress.append((value, self.total))

    def throw() -> None:
        if state.interrupt_after is not None and len(state.progress) >= state.interrupt_after:
            raise InterruptedRunError

    io = SimpleNamespace(
        ComfyNode=object, Schema=Schema, NodeOutput=NodeOutput, Custom=_type,
        Image=_type("IMAGE"), Float=_type("FLOAT"), String=_type("STRING"), Combo=_type("COMBO"),
    )  # fmt: skip
    folders: dict[str, list[str]] = {}
    modules = {
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": object},
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {"throw_exception_if_processing_interrupted": throw},
        "folder_paths": {
            "models_dir": str(models),
            "add_model_folder_path": lambda name, path: folders.setdefault(name, []).append(path),
            "get_folder_paths": lambda name: folders[name],
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
