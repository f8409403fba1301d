"""The text chunks ComfyUI's Save Image writes: ``prompt`` (API graph) and ``workflow`` (canvas)."""

from __future__ import annotations

import json
from typing import Any

from PIL.PngImagePlugin import PngInfo

NEGATIVE = "blurry, noisy, low quality, watermark"
CHECKPOINT = "procedural_v1.safetensors"

Graph = dict[str, dict[str, Any]]


def api_graph(text: str, seed: int, size: tuple[int, int], prefix: str) -> Graph:
    """The default text-to-image graph, as ComfyUI queues it."""
    sampler = {
        "seed": seed, "steps": 24, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras",
        "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["5", 0],
    }  # fmt: skip
    nodes = {
        "3": ("KSampler", sampler),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}),
        "5": ("EmptyLatentImage", {"width": size[0], "height": size[1], "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": text, "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": NEGATIVE, "clip": ["4", 1]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"filename_prefix": prefix, "images": ["8", 0]}),
    }
    return {key: {"inputs": inputs, "class_type": kind} for key, (kind, inputs) in nodes.items()}


# Outputs of each node by slot; the link's type on the canvas is the output's.
_OUTPUTS = {
    "KSampler": ("LATENT",),
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "EmptyLatentImage": ("LATENT",),
    "CLIPTextEncode": ("CONDITIONING",),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}


def canvas(graph: Graph) -> dict[str, Any]:
    """The same graph as the editor saves it: nodes with slots, and links between them."""
    links: list[list[Any]] = []
    nodes: dict[str, dict[str, Any]] = {}
    for place, (key, node) in enumerate(graph.items()):
        kind = node["class_type"]
        nodes[key] = {
            "id": int(key), "type": kind, "pos": [40 + 340 * (place % 4), 120 + 300 * (place // 4)],
            "size": [315, 106], "flags": {}, "order": place, "mode": 0, "inputs": [],
            "outputs": [
                {"name": name, "type": name, "links": [], "slot_index": slot}
                for slot, name in enumerate(_OUTPUTS[kind])
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": [v for v in node["inputs"].values() if not isinstance(v, list)],
        }  # fmt: skip
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, slot = value
                kind = _OUTPUTS[graph[source]["class_type"]][slot]
                target = nodes[key]["inputs"]
                links.append([len(links) + 1, int(source), slot, int(key), len(target), kind])
                target.append({"name": name, "type": kind, "link": len(links)})
                nodes[source]["outputs"][slot]["links"].append(len(links))
    return {
        "last_node_id": max(map(int, graph)), "last_link_id": len(links),
        "nodes": list(nodes.values()), "links": links, "groups": [], "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


def png_info(text: str, seed: int, size: tuple[int, int], prefix: str) -> PngInfo:
    """Both chunks, ready for ``Image.save(pnginfo=…)``."""
    graph = api_graph(text, seed, size, prefix)
    info = PngInfo()
    info.add_text("prompt", json.dumps(graph))
    info.add_text("workflow", json.dumps(canvas(graph)))
    return info
