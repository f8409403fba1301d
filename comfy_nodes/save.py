"""The node "ArtiMuse Save Image"."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..artimuse_core.images import load_image
from ..artimuse_core.inputs import flatten, to_uint8
from . import models
from .batches import split_images
from .schema import describe, first
from .scoring import model_input, scores_input, wired_or_scored

SCORE_CHUNK = "artimuse"
"""Name of the PNG text chunk with ``{"score", "std"}``; ``std`` where it is known."""

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{stars}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


class ArtiMuseSaveImage(io.ComfyNode):
    """Images → PNG files that carry their score in name and metadata."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            node_id="ArtiMuseSaveImage",
            display_name="ArtiMuse Save Image",
            description="Saves images as PNG with the score in the file's name and metadata, "
            "beside prompt and workflow, and if you like as stars.",
            search_aliases=["export", "rating", "stars", "XMP"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of any sizes."),
                io.String.Input(
                    "filename_prefix",
                    default="ArtiMuse/%score%",
                    tooltip="%score%, %spread%, %rank% (1 is the best) and %index% stand for "
                    "numbers of fixed width, so that names sort; ComfyUI's own "
                    "%date:yyyy-MM-dd%, %year%, %width%, … work too.",
                ),
                io.Boolean.Input(
                    "rating",
                    default=False,
                    tooltip="Also write 1 to 5 stars as XMP, which picture managers show: one for "
                    "each 20 points begun.",
                ),
                model_input(),
                scores_input(),
                io.Float.Input(
                    "spreads",
                    optional=True,
                    force_input=True,
                    tooltip="From ArtiMuse Score, where scores are wired.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "files",
                    display_name="files",
                    tooltip="The files' whole paths, one per image.",
                    is_output_list=True,
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Any],
        filename_prefix: list[str],
        rating: list[bool],
        model: list[models.LoadedModel] | None = None,
        scores: list[float] | None = None,
        spreads: list[float] | None = None,
    ) -> io.NodeOutput:
        singles, now = split_images(images), datetime.now()
        total = len(singles)
        numbers, widths = wired_or_scored(images, total, model, scores, spreads)
        ranking = sorted(range(total), key=lambda index: -numbers[index])
        ranks = {index: place for place, index in enumerate(ranking, start=1)}
        files, shown = [], []
        for index, pixels in enumerate(singles):
            image = to_image(pixels)
            spread = None if widths is None else widths[index]
            prefix = fill_pattern(
                first(filename_prefix), numbers[index], spread, ranks[index], index, now
            )
            folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
                prefix, folder_paths.get_output_directory(), image.width, image.height
            )
            path = Path(folder, f"{name}_{counter:05}_.png")
            metadata = png_metadata(
                numbers[index], spread, first(rating), cls.hidden.prompt, cls.hidden.extra_pnginfo
            )
            with path.open("xb") as file:  # never over a file that is there
                image.save(file, format="PNG", pnginfo=metadata, compress_level=4)
            files.append(str(path))
            shown.append({"filename": path.name, "subfolder": subfolder, "type": "output"})
        return io.NodeOutput(files, ui={"images": shown, "score": numbers})


def to_image(pixels: Any) -> Image.Image:
    """(1, H, W, C) in 0..1 → the image that is scored, with its alpha beside it where C is 4."""
    (image,) = map(load_image, flatten(pixels))
    if pixels.shape[-1] == 4:
        image.putalpha(Image.fromarray(to_uint8(pixels[0, ..., 3].detach().cpu().float().numpy())))
    return image


def fill_pattern(
    prefix: str, score: float, spread: float | None, rank: int, index: int, now: datetime
) -> str:
    """The file name's pattern with the numbers of one image; an unknown spread is ``-``.

    ``%date:…%`` is filled here, too: ComfyUI's editor does that for its own nodes only.
    """
    values = {
        "%score%": f"{score:06.2f}",
        "%spread%": "-" if spread is None else f"{spread:05.2f}",
        "%rank%": f"{rank:04d}",
        "%index%": f"{index:04d}",
        "%batch_num%": str(index),  # as ComfyUI's own Save Image has it
    }
    for name, value in values.items():
        prefix = prefix.replace(name, value)
    return re.sub(r"%date:([^%]*)%", lambda found: _date(found[1], now), prefix)


def _date(pattern: str, now: datetime) -> str:
    """As ComfyUI's editor writes it: ``yyyy``, ``M``, ``dd``, …, a doubled letter two digits."""
    parts = {
        "d": now.day,
        "M": now.month,
        "h": now.hour,
        "m": now.minute,
        "s": now.second,
    }

    def fill(found: re.Match[str]) -> str:
        letters = found[0]
        if letters[0] == "y":
            return f"{now.year}"[-len(letters) :]
        return f"{parts[letters[0]]:0{len(letters)}}"

    return re.sub(r"yyyy|yy|([dMhms])\1?", fill, pattern)


def stars(score: float) -> int:
    """The five levels of the paper's Eq. 1, open below and closed above: 20 is 1, 20.1 is 2."""
    return min(5, max(1, math.ceil(score / 20)))


def png_metadata(
    score: float,
    spread: float | None,
    rating: bool,
    prompt: Any,
    extra_pnginfo: dict[str, Any] | None,
) -> PngInfo:
    """Text chunks: ours, and ComfyUI's unless it runs with ``--disable-metadata``."""
    metadata = PngInfo()
    if not args.disable_metadata:
        if prompt is not None:
            metadata.add_text("prompt", json.dumps(prompt))
        for name, value in (extra_pnginfo or {}).items():
            metadata.add_text(name, json.dumps(value))
    ours = {"score": round(score, 4)} | ({} if spread is None else {"std": round(spread, 4)})
    metadata.add_text(SCORE_CHUNK, json.dumps(ours))
    if rating:
        metadata.add_itxt("XML:com.adobe.xmp", _XMP.format(stars=stars(score)))
    return metadata
