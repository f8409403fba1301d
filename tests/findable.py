"""Loads the repository's root as the package ``artimuse`` where it is not installed.

By itself, so that an interpreter whose memory or modules are looked at loads little else.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("artimuse") is None:
    spec = importlib.util.spec_from_file_location(
        "artimuse", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["artimuse"] = module
    spec.loader.exec_module(module)
