"""What generators write into their images: prompt, negative prompt, seed.

Read here: ComfyUI's ``prompt`` graph and A1111's ``parameters``. Metadata is a stranger's text: any
part of it may be missing, huge or broken, and then it simply is not there.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..artimuse_core.images import one_line

log = logging.getLogger(__name__)

MAX_TEXT = 4_000_000
"""Longer text chunks are not parsed, in characters."""


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """How an image was made, as far as it says so."""

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    generator: str | None = None
    """The program: ``ComfyUI``, ``A1111``."""


def read_metadata(info: Mapping[Any, Any]) -> GenerationInfo:
    """Parse Pillow's ``image.info``; never raises."""
    for key, parse in (("prompt", _comfyui), ("parameters", _a1111)):
        text = info.get(key)
        if isinstance(text, str) and len(text) <= MAX_TEXT:
            try:
                return parse(text)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                log.debug("unreadable %s metadata: %s", key, one_line(error))
    return GenerationInfo()


def _comfyui(text: str) -> GenerationInfo:
    """Follow the API-format graph from the first sampler to its texts and seed."""
    graph = json.loads(text)
    nodes = {key: node for key, node in graph.items() if isinstance(node.get("inputs"), dict)}
    samplers = [node for node in nodes.values() if {"positive", "negative"} <= set(node["inputs"])]
    # Several nodes pass conditioning on (ControlNet, …); the sampler is the one with a seed.
    samplers.sort(key=lambda node: _seed_of(node, nodes) is None)
    if not samplers:
        return GenerationInfo(generator="ComfyUI")
    inputs = samplers[0]["inputs"]
    return GenerationInfo(
        prompt=_text_behind(inputs["positive"], nodes),
        negative_prompt=_text_behind(inputs["negative"], nodes),
        seed=_seed_of(samplers[0], nodes),
        generator="ComfyUI",
    )


def _seed_of(node: dict[str, Any], nodes: Mapping[str, Any]) -> int | None:
    for name in ("seed", "noise_seed"):
        value = node["inputs"].get(name)
        if isinstance(value, list) and value and str(value[0]) in nodes:  # a link to a seed node
            value = next(
                (v for v in nodes[str(value[0])]["inputs"].values() if isinstance(v, int)), None
            )
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _text_behind(link: Any, nodes: Mapping[str, Any]) -> str | None:
    """The nearest text upstream of a conditioning link ``[node id, output index]``."""
    queue, seen = [link], set()
    while queue:
        current = queue.pop(0)
        if not (isinstance(current, list) and current) or str(current[0]) in seen:
            continue
        seen.add(str(current[0]))
        inputs = nodes.get(str(current[0]), {}).get("inputs", {})
        for name in ("text", "text_g", "clip_l", "t5xxl", "value", "string"):
            if isinstance(inputs.get(name), str):
                return str(inputs[name])
        queue.extend(inputs.values())
    return None


def _a1111(text: str) -> GenerationInfo:
    """``prompt``, then ``Negative prompt: …``, then one line of ``Key: value, …`` settings."""
    body, _, settings = text.rpartition("\nSteps: ")
    if not body and text.startswith("Steps: "):
        settings = text
    elif not settings:
        return GenerationInfo(prompt=text.strip(), generator="A1111")
    prompt, marker, negative = body.partition("Negative prompt:")
    seed = re.search(r"\bSeed: (\d{1,20})\b", settings)
    return GenerationInfo(
        prompt=prompt.strip(),
        negative_prompt=negative.strip() if marker else None,
        seed=int(seed[1]) if seed else None,
        generator="A1111",
    )
