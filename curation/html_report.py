"""One self-contained page of a run: works from file://, without a network, at tens of thousands.

The template holds the page and its script; here the records become compact columns and the
thumbnails chunks of text that the page decodes as they scroll into view.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError
from .drivers import score_drivers
from .records import Record, in_place_of
from .sources import is_remote
from .store import Store

CHUNK = 200
"""Thumbnails a chunk; the page reads one chunk at a time."""
TEXTS = (
    "prompt", "negative_prompt", "generator", "checkpoint", "loras", "sampler", "scheduler",
    "workflow", "reason", "group", "bucket",
)  # fmt: skip
"""Columns whose values repeat; sent once each and by number after that."""
NUMBERS = ("score", "std", "rank", "standing", "width", "height", "steps", "cfg", "stays")


def check(path: Path) -> None:
    """Raise UsageError for a name that is no page, MissingExtraError without jinja2."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write {path}: expected a name ending in .html")
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("jinja2", "curate") from error


def write_report(path: Path, ranked: Sequence[Record], store: Store, *, title: str) -> None:
    """Write the page; it appears whole or not at all."""
    from jinja2 import Environment

    source = (Path(__file__).parent / "report.html.j2").read_text("utf-8")
    template = Environment(autoescape=True).from_string(source)
    page = template.generate(
        title=title,
        chunk=CHUNK,
        rows=_script(_columns(ranked, path)),
        critiques=any(record.critique for record in ranked),
        pictures=_pictures(ranked, store),
        drivers=score_drivers(ranked)[:40],
        failed=[record for record in ranked if record.error is not None],
    )
    with in_place_of(path) as partial, partial.open("w", encoding="utf-8") as file:
        try:
            file.writelines(page)
        except UnicodeEncodeError as error:
            raise ArtiMuseError(f"cannot write {path}: {error}") from error


def _columns(ranked: Sequence[Record], page: Path) -> dict[str, Any]:
    shown = [record for record in ranked if record.error is None]
    places = {record.path: index for index, record in enumerate(shown)}
    columns: dict[str, Any] = {
        "path": [_printable(record.path) for record in shown],
        "link": [_link(record.path, page) for record in shown],
        # JavaScript's numbers hold 53 bits, seeds have 64.
        "seed": [None if record.info.seed is None else str(record.info.seed) for record in shown],
        "selected": [int(record.selected) for record in shown],
        # The better image's place here; a reference outside of the folder has none: -1.
        "behind": [
            None if r.duplicate_of is None else places.get(r.duplicate_of, -1) for r in shown
        ],
    }
    if any(record.critique for record in shown):
        columns["critique"] = [
            record.critique and {_printable(k): _printable(v) for k, v in record.critique.items()}
            for record in shown
        ]
    for name in NUMBERS:
        values = (record.value(name) for record in shown)
        columns[name] = [round(v, 2) if isinstance(v, float) else v for v in values]
    for name in TEXTS:
        known: dict[str, int] = {}
        columns[name] = [
            None if text is None else known.setdefault(_printable(text), len(known))
            for text in (record.value(name) for record in shown)
        ]
        columns[f"{name}_texts"] = list(known)
    return columns


def _pictures(ranked: Sequence[Record], store: Store) -> Iterator[str]:
    """Chunks of lines ``thumbnail distribution``, both base64, in the order of the columns."""
    lines: list[str] = []
    for record in ranked:
        if record.error is not None:
            continue
        thumbnail = store.visuals(record.pixels).thumbnail if record.pixels else None
        lines.append(f"{_base64(thumbnail or b'')} {_base64(_distribution(record.probs))}")
        if len(lines) == CHUNK:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _distribution(probs: bytes | None) -> bytes:
    """One byte a score token, 255 for the likeliest."""
    if probs is None:
        return b""
    values = np.frombuffer(probs, np.float16).astype(np.float32)
    peak = float(values.max(initial=0.0))
    return (values * (255 / peak) if peak > 0 else values).astype(np.uint8).tobytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _link(path: str, page: Path) -> str:
    """From the page to the image; relative, so that both can move together."""
    if is_remote(path):
        return path
    full = os.path.abspath(path)
    try:
        relative = os.path.relpath(full, page.resolve().parent)
    except ValueError:  # another drive of Windows
        return Path(full).as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
