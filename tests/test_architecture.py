"""The arrows of the design, the light base install, and the package list."""

import ast
import sys

import pytest

from .conftest import ROOT, python

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

APPLICATIONS = ("comfy_nodes", "curation", "training", "export")
ROOMS = ("artimuse_core", *APPLICATIONS)
PACKAGES = (*ROOMS, "commands")


def imported_rooms(path) -> set[str]:
    """First-level packages of artimuse that a file imports, by relative or absolute name."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = [*base, *(node.module or "").split(".")]
            if not node.level and names[0] == "artimuse":
                names = names[1:]
            names = [name for name in names if name]
            rooms.update(names[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            rooms.update(a.name.split(".")[1] for a in node.names if a.name.startswith("artimuse."))
    return rooms & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_to_the_core_only(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert imported_rooms(path) <= {room, "artimuse_core"}, path


def test_all_imports_inside_are_relative() -> None:
    for path in [
        *ROOT.glob("*.py"),
        *(p for room in PACKAGES for p in (ROOT / room).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and not node.level and node.module
            names = [node.module] if absolute else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "artimuse" for name in names), path


def test_package_list_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {
        "artimuse." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in PACKAGES
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == {"artimuse", *folders}


HEAVY = "[m for m in ('torch', 'transformers', 'onnxruntime', 'onnx') if m in sys.modules]"


def test_importing_artimuse_loads_nothing_heavy() -> None:
    code = f"import artimuse, artimuse.cli; dir(artimuse); print({HEAVY})"
    assert python(code).strip() == "[]"


def test_scoring_with_nano_loads_no_torch() -> None:
    code = (
        "import artimuse; from PIL import Image; "
        "r = artimuse.Scorer.load().score(Image.new('RGB', (9, 9))); "
        f"print(r[0].ok, {HEAVY})"
    )
    assert python(code).strip() == "True ['onnxruntime']"


def test_public_names() -> None:
    import artimuse

    assert artimuse.__all__ == ["ArtiMuseError", "Reward", "ScoreResult", "Scorer", "__version__"]
    for name in artimuse.__all__:
        assert getattr(artimuse, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = artimuse.nothing
