"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """Yield a temporary directory next to ``output`` that gets its name when the block ends well.

    Raises UsageError if ``output`` exists: nothing is ever overwritten.
    """
    if output.exists():
        raise UsageError(f"{output} exists already; remove it or choose another directory")
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield work
        work.chmod(0o755)
        os.replace(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
