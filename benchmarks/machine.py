"""Names the hardware that a benchmark ran on."""

from __future__ import annotations

import platform
from pathlib import Path

from artimuse.artimuse_core.engines import default_threads


def describe() -> str:
    """Processor, usable cores and Python, on one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    python = platform.python_version()
    return f"{name}, {default_threads()} cores, Python {python}, {platform.system()}"
