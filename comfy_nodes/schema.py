"""What all our nodes have in common, on whichever ComfyUI they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..artimuse_core.errors import UsageError

CATEGORY = "ArtiMuse"


def describe(**schema: Any) -> io.Schema:
    """An ``io.Schema`` in our category.

    What this ComfyUI's schema does not know yet (0.3.64 has no ``search_aliases``) is left out.
    """
    known = {field.name for field in fields(io.Schema)}
    later = {"search_aliases"} - known
    kept = {name: value for name, value in schema.items() if name not in later}
    return io.Schema(category=CATEGORY, **kept)


def first(values: Any) -> Any:
    """A widget's value, which arrives as a list of one where ``is_input_list`` is set."""
    return values[0] if isinstance(values, (list, tuple)) and values else values


def check_option(name: str, value: Any, options: Sequence[str]) -> str:
    """A combo's value, which ComfyUI passes on unchecked. Raises UsageError for an unknown one."""
    if first(value) not in options:
        raise UsageError(f"unknown {name} {first(value)!r}; known: {', '.join(options)}")
    return str(first(value))


def validate_options(**given: tuple[Any, Sequence[str]]) -> bool | str:
    """What a node's ``validate_inputs`` answers for its combos: True, or the line to show.

    So a wrong one is refused before the run, not after an hour of sampling. A combo that is wired
    is None here, and is checked when the node runs.
    """
    try:
        for name, (value, options) in given.items():
            if first(value) is not None:
                check_option(name, value, options)
    except UsageError as error:
        return str(error)
    return True
