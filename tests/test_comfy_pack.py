"""What ComfyUI and its registry find beside the nodes: help, translations, metadata."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from . import comfy_stub
from .conftest import ROOT, python

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

WEB = ROOT / "comfy_nodes" / "web"


@pytest.fixture
def schemas(monkeypatch, tmp_path) -> list[comfy_stub.Schema]:
    comfy_stub.install(monkeypatch, tmp_path)
    import artimuse

    extension = asyncio.run(artimuse.comfy_entrypoint())
    return [node.define_schema() for node in asyncio.run(extension.get_node_list())]


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def definitions(language: str) -> dict[str, object]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def test_every_node_has_a_help_page_in_both_languages(schemas) -> None:
    names = {schema.node_id for schema in schemas}
    assert {page.stem for page in (WEB / "docs").glob("*.md")} == names
    assert {page.parent.name for page in (WEB / "docs").glob("*/zh.md")} == names
    for schema in schemas:
        page = (WEB / "docs" / f"{schema.node_id}.md").read_text("utf-8")
        assert page.splitlines()[0] == f"# {schema.display_name}"


def test_the_english_texts_are_the_schemas(schemas) -> None:
    def texts(socket: comfy_stub.Socket) -> dict[str, str]:
        name = socket.options.get("display_name") or socket.id
        return {"name": name, "tooltip": socket.options["tooltip"]}

    assert definitions("en") == {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {socket.id: texts(socket) for socket in schema.inputs},
            "outputs": {str(i): texts(socket) for i, socket in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


def test_the_chinese_texts_are_complete_and_chinese() -> None:
    def shape(value: object) -> object:
        return {key: shape(v) for key, v in value.items()} if isinstance(value, dict) else None

    chinese = definitions("zh")
    assert shape(chinese) == shape(definitions("en"))
    for name, definition in chinese.items():
        for text in [
            definition["description"],
            *(i["tooltip"] for i in definition["inputs"].values()),
        ]:
            assert re.search(r"[\u4e00-\u9fff]", text), (name, text)


def test_the_script_draws_the_nodes_that_show_scores(schemas) -> None:
    script = (WEB / "artimuse.js").read_text("utf-8")
    drawn = set(re.findall(r'"(ArtiMuse\w+)"', script))
    assert drawn == {"ArtiMuseScore", "ArtiMuseCritique", "ArtiMuseSelect", "ArtiMuseBestOfN"}
    assert drawn <= {schema.node_id for schema in schemas}
    assert "innerHTML" not in script  # texts come from models and strangers


def test_comfyui_finds_the_script_where_the_package_says() -> None:
    import artimuse

    assert (ROOT / artimuse.WEB_DIRECTORY).resolve() == WEB
    # Both would register the script twice, under two names.
    assert "web" not in project()["tool"]["comfy"]


def test_nothing_of_the_pack_is_missing_from_wheels() -> None:
    package_data = project()["tool"]["setuptools"]["package-data"]
    for package, root, needed in (
        ("artimuse.comfy_nodes", ROOT / "comfy_nodes", WEB.rglob("*.*")),
        ("artimuse", ROOT, (ROOT / "locales").rglob("*.json")),
        ("artimuse", ROOT, (ROOT / "example_workflows").glob("*.*")),
    ):
        found = {file for pattern in package_data[package] for file in root.glob(pattern)}
        assert set(needed) <= found


def test_comfyui_is_asked_to_install_only_what_it_lacks() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted == ["onnxruntime>=1.20"]
    assert set(wanted) <= set(project()["project"]["dependencies"])


def test_nodes_load_and_score_with_nothing_but_that(tmp_path) -> None:
    needs = [re.split("[<>=]", line)[0] for line in project()["project"]["dependencies"]]
    installed = ("onnxruntime", "numpy", "pillow")  # the last two by ComfyUI itself
    lacking = [name.replace("-", "_") for name in needs if name not in installed]
    assert "platformdirs" in lacking
    code = f"""
import asyncio
sys.modules.update(dict.fromkeys({lacking}))  # so that importing any of these fails
from pathlib import Path
import pytest, comfy_stub, artimuse
from PIL import Image
comfy_stub.install(pytest.MonkeyPatch(), Path({str(tmp_path)!r}))
nodes = asyncio.run(asyncio.run(artimuse.comfy_entrypoint()).get_node_list())
[result] = artimuse.Scorer.load("nano").score([Image.new("RGB", (64, 64))])
print(len(nodes), result.ok)
"""
    assert python(code).split() == ["8", "True"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem
)
def test_example_workflows_name_only_nodes_and_outputs_that_exist(schemas, path: Path) -> None:
    known = {schema.node_id: schema for schema in schemas}
    workflow = json.loads(path.read_text("utf-8"))
    ours = [node for node in workflow["nodes"] if node["type"].startswith("ArtiMuse")]
    assert ours
    for node in ours:
        schema = known[node["type"]]
        assert {slot["name"] for slot in node["inputs"]} <= {s.id for s in schema.inputs}
        outputs = [socket.options["display_name"] for socket in schema.outputs]
        assert [slot["name"] for slot in node["outputs"]] == outputs
    assert path.with_suffix(".jpg").stat().st_size > 1000
