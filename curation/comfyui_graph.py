"""What a ComfyUI graph says about an image: from the saved image to its sampler, texts and model.

Works on the API format (``prompt``): ``{node id: {"class_type", "inputs": {name: value | link}}}``,
a link being ``[node id, output index]``. Custom nodes are legion, so the walk goes by the names of
inputs, which nodes share, and not by the names of nodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]
Link = tuple[str, int]

_TEXTS = ("text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "prompt", "llama", "qwen25_7b")
_STRINGS = ("value", "string", "text", "Text", "prompt", "string_a", "string_b", "text_a", "text_b")
_CHECKPOINTS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
_NO_CONDITIONING = frozenset(
    "model clip vae image images pixels latent latent_image samples mask control_net clip_vision "
    "clip_vision_output style_model".split()
)
_SETTINGS = ("noise", "guider", "sampler", "sigmas")
"""Inputs under which a sampler keeps its settings in nodes of their own."""


class Graph:
    """A parsed graph; raises ValueError for JSON that is none."""

    def __init__(self, text: str) -> None:
        loaded = json.loads(text)
        if not isinstance(loaded, dict):
            raise ValueError("expected an object of nodes")
        self.nodes: dict[str, Node] = {
            str(key): node
            for key, node in loaded.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }
        if not self.nodes:
            raise ValueError("expected nodes with inputs")

    def fingerprint(self) -> str:
        """Short hash of nodes and links, without texts, seeds and other settings."""
        shape = {
            key: [node.get("class_type"), sorted((n, link) for n, link in self._links(key))]
            for key, node in self.nodes.items()
        }
        canonical = json.dumps(shape, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def sampler(self) -> str | None:
        """The sampler nearest to the saved image; any sampler where none is saved."""
        ends = sorted(
            (key for key in self.nodes if self._saves(key)),
            key=lambda key: (not self._class(key).startswith("Save"), key),
        )
        for end in ends:
            found = next((key for key in self._upstream(end) if self._samples(key)), None)
            if found is not None:
                return found
        return next((key for key in self.nodes if self._samples(key)), None)

    def settings(self, sampler: str) -> dict[str, Any]:
        """seed, steps, cfg, sampler, scheduler as the sampler or its setting nodes hold them."""

        def first(start: str, *names: str) -> Any:
            for place in (start, *self._behind(start, _SETTINGS)):
                for name in names:
                    value = self._plain(place, name)
                    if value is not None:
                        return value
            return None

        return {
            "seed": first(self._adds_noise(sampler), "seed", "noise_seed"),
            "steps": first(sampler, "steps"),
            "cfg": first(sampler, "cfg", "cfg_conds"),
            "sampler": first(sampler, "sampler_name"),
            "scheduler": first(sampler, "scheduler"),
        }

    def texts(self, sampler: str) -> tuple[str | None, str | None]:
        """The positive and the negative prompt; several texts of one side on lines of their own."""
        sides = []
        for names in (("positive", "conditioning", "cond1"), ("negative",)):
            links = [self._link(place, name) for place in self._guiders(sampler) for name in names]
            found = dict.fromkeys(t for link in links if link for t in self._conditioning(link))
            sides.append("\n".join(found) if found else None)
        return sides[0], sides[1]

    def models(self, sampler: str) -> tuple[list[str], list[str]]:
        """Checkpoints and LoRAs behind a sampler's model."""
        checkpoints: dict[str, None] = {}
        loras: dict[str, None] = {}
        starts = [self._link(place, "model") for place in self._guiders(sampler)]
        queue, seen = [link[0] for link in starts if link], set[str]()
        while queue:
            key = queue.pop(0)
            if key in seen:
                continue
            seen.add(key)
            for name, value in self._inputs(key).items():
                if isinstance(value, str) and value:
                    if name in _CHECKPOINTS:
                        checkpoints[value] = None
                    elif name.startswith("lora_name"):
                        loras[value] = None
            queue.extend(link[0] for name, link in self._links(key) if name.startswith("model"))
        return list(checkpoints), list(loras)

    def _class(self, key: str) -> str:
        return str(self.nodes[key].get("class_type", ""))

    def _inputs(self, key: str) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = self.nodes[key]["inputs"]
        return inputs

    def _link(self, key: str, name: str) -> Link | None:
        value = self._inputs(key).get(name)
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes:
            return str(value[0]), value[1] if isinstance(value[1], int) else 0
        return None

    def _links(self, key: str) -> Iterator[tuple[str, Link]]:
        for name in self._inputs(key):
            link = self._link(key, name)
            if link is not None:
                yield name, link

    def _saves(self, key: str) -> bool:
        name = self._class(key)
        return ("Save" in name or "Preview" in name) and any(True for _ in self._links(key))

    def _samples(self, key: str) -> bool:
        inputs = self._inputs(key)
        if "guider" in inputs and "sigmas" in inputs:
            return True
        seeded = "seed" in inputs or "noise_seed" in inputs
        return seeded and {"positive", "negative"} <= set(inputs)

    def _upstream(self, start: str) -> Iterator[str]:
        """All nodes behind one, nearest first."""
        queue, seen = [start], {start}
        while queue:
            key = queue.pop(0)
            yield key
            for _, (origin, _) in self._links(key):
                if origin not in seen:
                    seen.add(origin)
                    queue.append(origin)

    def _behind(self, key: str, names: tuple[str, ...]) -> list[str]:
        links = [self._link(key, name) for name in names]
        return [link[0] for link in links if link]

    def _guiders(self, sampler: str) -> list[str]:
        return [sampler, *self._behind(sampler, ("guider",))]

    def _adds_noise(self, sampler: str) -> str:
        """The stage whose seed counts: a refiner that adds no noise goes on with another's."""
        seen = {sampler}
        while self._inputs(sampler).get("add_noise") == "disable":
            latent = self._link(sampler, "latent_image")
            behind = self._upstream(latent[0]) if latent else ()
            found = next((key for key in behind if self._samples(key)), None)
            if found is None or found in seen:
                break
            seen.add(found)
            sampler = found
        return sampler

    def _plain(self, key: str, name: str) -> Any:
        """A setting, followed through nodes that only hold a value."""
        value, seen = self._inputs(key).get(name), set[str]()
        while isinstance(value, list):
            if not (value and str(value[0]) in self.nodes) or str(value[0]) in seen:
                return None
            origin = str(value[0])
            seen.add(origin)
            inputs = self._inputs(origin)
            held = [inputs[n] for n in (name, "value", "seed", "int", "number") if n in inputs]
            plain = (v for v in inputs.values() if isinstance(v, (int, float)))
            value = held[0] if held else next(plain, None)
        return value

    def _conditioning(self, start: Link) -> Iterator[str]:
        """The texts behind a conditioning link, nearest first, each branch up to its encoder."""
        queue, seen = [start], set[Link]()
        while queue:
            link = queue.pop(0)
            if link in seen or self._class(link[0]) == "ConditioningZeroOut":
                continue
            seen.add(link)
            key, output = link
            texts = [t for name in _TEXTS for t in self._strings(key, name)]
            if texts:
                yield from texts
                continue
            links = dict(self._links(key))
            if {"positive", "negative"} <= set(links):  # both go in and come out, in this order
                queue.append(links["negative" if output == 1 else "positive"])
                continue
            named = [link for name, link in links.items() if "cond" in name.lower()]
            others = [link for name, link in links.items() if name not in _NO_CONDITIONING]
            queue.extend(named or others)

    def _strings(self, key: str, name: str, depth: int = 0) -> Iterator[str]:
        """An input's text, also where other nodes hold or join it."""
        value = self._inputs(key).get(name)
        if isinstance(value, str):
            if value.strip():
                yield value
            return
        link = self._link(key, name)
        if link is None or depth > 20:
            return
        for inner in _STRINGS:
            yield from self._strings(link[0], inner, depth + 1)
