"""A score written where other programs read it: an XMP sidecar, a PNG text chunk."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from ..artimuse_core.errors import ArtiMuseError

KEYWORD = b"artimuse"
"""Keyword of the PNG text chunk."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_X = "adobe:ns:meta/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_OURS = "urn:artimuse:xmp:1.0:"
_PREFIXES = {
    "x": _X, "rdf": _RDF, "xmp": _XMP, "artimuse": _OURS,
    "dc": "http://purl.org/dc/elements/1.1/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "darktable": "http://darktable.sf.net/",
}  # fmt: skip
"""Written by these names again, as their programs expect; other name spaces keep working."""


def stars(score: float) -> int:
    """1..5: each fifth of the scale of 0..100 is a star."""
    return max(1, min(5, math.ceil(score / 20)))


def xmp_with_score(before: str | None, values: Mapping[str, Any]) -> str:
    """An XMP sidecar with rating and score; everything that stood in ``before`` stays.

    Raises ArtiMuseError for a sidecar that is no XMP: it is not overwritten.
    """
    for prefix, space in _PREFIXES.items():
        ElementTree.register_namespace(prefix, space)
    root = _parse(before) if before is not None else ElementTree.Element(f"{{{_X}}}xmpmeta")
    rdf = root if root.tag == f"{{{_RDF}}}RDF" else root.find(f"{{{_RDF}}}RDF")
    if rdf is None:
        rdf = ElementTree.SubElement(root, f"{{{_RDF}}}RDF")
    descriptions = rdf.findall(f"{{{_RDF}}}Description")
    names = {
        f"{{{_XMP}}}Rating": str(stars(values["score"])),
        f"{{{_OURS}}}score": f"{values['score']:.2f}",
        f"{{{_OURS}}}std": f"{values['std']:.2f}",
        f"{{{_OURS}}}model": str(values["model"]),
    }
    for description in descriptions:  # as attributes or elements, wherever they stood
        for name in names:
            description.attrib.pop(name, None)
            for element in description.findall(name):
                description.remove(element)
    if not descriptions:
        about = {f"{{{_RDF}}}about": ""}
        descriptions = [ElementTree.SubElement(rdf, f"{{{_RDF}}}Description", about)]
    for name, value in names.items():
        descriptions[0].set(name, value)
    ElementTree.indent(root, " ")
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _parse(text: str) -> ElementTree.Element:
    # A sidecar has no use for a document type, and its entities can grow without bounds.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ArtiMuseError("the sidecar has a document type, which XMP does not; left alone")
    try:
        root = ElementTree.fromstring(text.strip("\ufeff \n\r\t\0"))
    except (ElementTree.ParseError, UnicodeError) as error:
        raise ArtiMuseError(f"the sidecar is no XMP ({error}); left alone") from error
    if root.tag not in (f"{{{_X}}}xmpmeta", f"{{{_RDF}}}RDF"):
        raise ArtiMuseError("the sidecar is XML but no XMP; left alone")
    return root


def png_with_score(data: bytes, values: Mapping[str, Any]) -> bytes:
    """A PNG's bytes with one more text chunk; all other chunks, pixels among them, as they were.

    Raises ArtiMuseError for a file that is no whole PNG.
    """
    text = json.dumps({key: values[key] for key in ("score", "std", "model")})
    ours = _chunk(b"tEXt", KEYWORD + b"\0" + text.encode("latin-1"))
    parts, placed = [_SIGNATURE], False
    for kind, body, raw in _chunks(data):
        if kind == b"tEXt" and body.startswith(KEYWORD + b"\0"):
            continue
        if kind in (b"IDAT", b"IEND") and not placed:  # before the pixels, where all readers look
            parts.append(ours)
            placed = True
        parts.append(raw)
    return b"".join(parts)


def png_without_texts(data: bytes) -> bytes | None:
    """A PNG without its text and EXIF chunks; None where there are none, or for no whole PNG."""
    try:
        parts = [(kind, raw) for kind, _, raw in _chunks(data)]
    except ArtiMuseError:
        return None
    kept = [raw for kind, raw in parts if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf")]
    return None if len(kept) == len(parts) else b"".join([_SIGNATURE, *kept])


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + checksum


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, body, raw bytes) of each chunk; bytes behind the last one come as they are."""
    if not data.startswith(_SIGNATURE):
        raise ArtiMuseError("not a PNG; --write-png takes PNG files only")
    place = len(_SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            raise ArtiMuseError("a truncated PNG; nothing written")
        yield kind, data[place + 8 : place + 8 + length], data[place:end]
        place = end
        if kind == b"IEND":
            break
    else:
        raise ArtiMuseError("a truncated PNG; nothing written")
    if place < len(data):
        yield b"", b"", data[place:]
