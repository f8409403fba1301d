"""What generators write into their images: prompt, seed, model, sampler.

ComfyUI's graphs and A1111's ``parameters`` are read here; InvokeAI, Fooocus and NovelAI are left
to sd-parsers (decision 0010). Metadata is a stranger's text: any part of it may be missing, huge or
broken, and then it simply is not there.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..artimuse_core.images import one_line
from .comfyui_graph import Graph

log = logging.getLogger(__name__)

MAX_TEXT = 4_000_000
"""Longer metadata is not parsed, in characters."""
MAX_PROMPT = 20_000
"""Longer prompts are cut, in characters."""

MAX_HIDING_PIXELS = 24_000_000
"""Larger images are not searched for hidden metadata: it takes decoding them a second time."""

_MAKE, _EXIF_IFD, _USER_COMMENT = 0x010F, 0x8769, 0x9286
_EXIF_TEXTS = (0x0110, _MAKE, 0x010E)  # where ComfyUI's WebP writers put `name:json`


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """How an image was made, as far as it says so."""

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    """0..2⁶⁴-1"""
    generator: str | None = None
    """The program: ComfyUI, A1111, InvokeAI, Fooocus, NovelAI."""
    checkpoint: str | None = None
    """The diffusion model it was made with."""
    loras: str | None = None
    """File names, separated by commas."""
    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    workflow: str | None = None
    """Short hash of a ComfyUI graph without its texts and numbers: equal for equal workflows."""


def read_metadata(info: Mapping[Any, Any]) -> GenerationInfo:
    """Parse Pillow's ``image.info``; never raises."""
    texts = {key: text for key, text in info.items() if isinstance(text, str)}
    texts |= _exif_texts(info.get("exif"))
    for keys, parse in _READERS:
        if all(len(texts.get(key, "")) in range(1, MAX_TEXT + 1) for key in keys):
            try:
                found = parse(texts)
            except Exception as error:  # whatever a stranger's text does to a parser
                log.debug("unreadable %s metadata: %s", keys[0], one_line(error))
            else:
                if found is not None:
                    return found
    return GenerationInfo()


def hidden_parameters(data: bytes) -> dict[str, str]:
    """A1111's "stealth pnginfo": text in the lowest bit of a PNG's alpha, column by column."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] != b"\x06":  # colour type: RGBA
        return {}
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if width * height > MAX_HIDING_PIXELS:
        return {}
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        alpha = image.getchannel("A")

    def hidden(count: int) -> bytes:
        columns = alpha.crop((0, 0, min(width, -(-count * 8 // height)), height))
        return np.packbits((np.asarray(columns).T & 1).ravel()).tobytes()[:count]

    head = hidden(19)
    mark, length = head[:15], int.from_bytes(head[15:], "big") // 8
    if mark not in (b"stealth_pngcomp", b"stealth_pnginfo") or length > MAX_TEXT:
        return {}
    body = hidden(19 + length)[19:]
    try:
        if mark == b"stealth_pngcomp":
            with gzip.open(io.BytesIO(body)) as file:
                body = file.read(MAX_TEXT)
        return {"parameters": body.decode("utf-8")}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        log.debug("unreadable hidden metadata: %s", one_line(error))
        return {}


def _exif_texts(exif: Any) -> dict[str, str]:
    """Texts that JPEG, WebP and AVIF writers keep in EXIF, under the names PNG gives them."""
    if not isinstance(exif, bytes) or len(exif) > MAX_TEXT:
        return {}
    texts = {}
    try:
        tags = Image.Exif()
        tags.load(exif)
        for tag in _EXIF_TEXTS:
            name, colon, text = str(tags.get(tag, "")).partition(":")
            if colon and name.lower() in ("prompt", "workflow"):
                texts[name.lower()] = text.rstrip("\0")
        comment = tags.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
        if isinstance(comment, bytes):
            texts["parameters"] = _user_comment(comment)
    except Exception as error:  # struct.error, SyntaxError, … on broken tags
        log.debug("unreadable EXIF: %s", one_line(error))
    return texts


def _user_comment(comment: bytes) -> str:
    """EXIF's UserComment: eight bytes naming the code, then the text."""
    code, text = comment[:8], comment[8:]
    if not code.startswith(b"UNICODE"):
        return (text if code.rstrip(b"\0") in (b"", b"ASCII") else comment).decode("utf-8").strip()
    # The standard leaves the byte order open. Western text has its zeros in the high bytes.
    little = text[:2] == b"\xff\xfe" or text[1:400:2].count(0) > text[0:400:2].count(0)
    return text.decode("utf-16-le" if little else "utf-16-be").strip("\ufeff\0 ")


def _comfyui(texts: Mapping[str, str]) -> GenerationInfo:
    graph = Graph(texts["prompt"])
    sampler = graph.sampler()
    if sampler is None:
        return GenerationInfo(generator="ComfyUI", workflow=graph.fingerprint())
    positive, negative = graph.texts(sampler)
    checkpoints, loras = graph.models(sampler)
    return _info(
        "ComfyUI",
        prompt=positive,
        negative=negative,
        checkpoint=", ".join(checkpoints),
        loras=loras,
        workflow=graph.fingerprint(),
        **graph.settings(sampler),
    )


_SETTING = re.compile(r'\s*([A-Za-z][\w \-/]*?):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def _a1111(texts: Mapping[str, str]) -> GenerationInfo | None:
    """``prompt``, then ``Negative prompt: …``, then one line of ``Key: value, …`` settings."""
    text = texts["parameters"]
    if text.lstrip().startswith("{"):
        return None  # Fooocus keeps JSON under this name
    body, line, settings_line = text.rpartition("\nSteps: ")
    if not line:
        is_settings = text.startswith("Steps: ")
        body, settings_line = ("", text) if is_settings else (text, "")
    else:
        settings_line = "Steps: " + settings_line
    settings = dict(_SETTING.findall(settings_line))
    prompt, marker, negative = body.partition("Negative prompt:")
    return _info(
        "A1111",
        prompt=prompt,
        negative=negative if marker else None,
        checkpoint=settings.get("Model") or settings.get("Model hash"),
        loras=list(dict.fromkeys(re.findall(r"<lora:([^:>]+)", prompt))),
        sampler=settings.get("Sampler"),
        scheduler=settings.get("Schedule type"),
        seed=settings.get("Seed"),
        steps=settings.get("Steps"),
        cfg=settings.get("CFG scale"),
    )


def _sd_parsers(generator: str) -> Callable[[Mapping[str, str]], GenerationInfo]:
    """A reader that leaves the parsing to sd-parsers' parser of that generator."""

    def read(texts: Mapping[str, str]) -> GenerationInfo:
        from sd_parsers import parsers

        # Parsers only, no ParserManager: its extractors open files and keep state between threads.
        parser = getattr(parsers, f"{generator}Parser")()
        found = parser.parse(dict(texts))
        sampler = found.samplers[0]
        values = {str(key).lower(): value for key, value in sampler.parameters.items()}
        steps = values.get("steps", found.metadata.get("steps"))  # NovelAI's lie outside
        return _info(
            generator,
            prompt=", ".join(prompt.value for prompt in found.prompts),
            negative=", ".join(prompt.value for prompt in found.negative_prompts),
            checkpoint=str(sampler.model) if sampler.model else None,
            sampler=sampler.name,
            scheduler=values.get("scheduler"),
            seed=values.get("seed"),
            steps=steps,
            cfg=values.get("cfg_scale"),
        )

    return read


_READERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, str]], GenerationInfo | None]], ...]
_READERS = (
    (("prompt",), _comfyui),
    (("invokeai_metadata",), _sd_parsers("InvokeAI")),
    (("sd-metadata",), _sd_parsers("InvokeAI")),
    (("Dream",), _sd_parsers("InvokeAI")),
    (("Comment", "Description", "Source"), _sd_parsers("NovelAI")),
    (("parameters",), _a1111),
    (("parameters",), _sd_parsers("Fooocus")),
)
"""Which texts call for which reader; the first that makes sense of them answers."""


def _info(
    generator: str,
    *,
    prompt: Any = None,
    negative: Any = None,
    checkpoint: Any = None,
    loras: list[str] | None = None,
    sampler: Any = None,
    scheduler: Any = None,
    seed: Any = None,
    steps: Any = None,
    cfg: Any = None,
    workflow: str | None = None,
) -> GenerationInfo:
    """Values as they come, made into the types they should have or None."""
    found_seed, found_steps = _whole(seed), _whole(steps)
    return GenerationInfo(
        prompt=_text(prompt),
        negative_prompt=_text(negative),
        seed=found_seed if found_seed is not None and found_seed < 2**64 else None,
        generator=generator,
        checkpoint=_text(checkpoint),
        loras=_text(", ".join(loras or ())),
        sampler=_text(sampler),
        scheduler=_text(scheduler),
        steps=found_steps if found_steps is not None and found_steps < 2**31 else None,
        cfg=_number(cfg),
        workflow=workflow,
    )


def _text(value: Any) -> str | None:
    """Text without lone surrogates, which no file could hold; None where there is none."""
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    if len(text) > MAX_PROMPT:
        text = text[:MAX_PROMPT] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not re.fullmatch(r"\s*\d{1,20}\s*", value):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):  # NaN, infinity
        return None
    return number if number >= 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e6 else None
