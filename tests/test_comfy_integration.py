"""The pack in a real ComfyUI; runs where COMFYUI_PATH says where one is (see CONTRIBUTING)."""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from . import comfy_pack, comfy_server, comfy_stub
from .comfy_server import ComfyServer
from .conftest import ROOT

pytestmark = pytest.mark.skipif(comfy_server.PATH is None, reason="COMFYUI_PATH is not set")

NAME = "artimuse-0.1.x"  # dots and hyphens, as unpacked archives have them
NODE_IDS = {
    "ArtiMuseLoader", "ArtiMuseScore", "ArtiMuseCritique", "ArtiMuseSelect", "ArtiMuseGate",
    "ArtiMuseSaveImage", "ArtiMuseScorePlot", "ArtiMuseBestOfN",
}  # fmt: skip
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.fixture(scope="module")
def comfy(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_bundle: Path
) -> Iterator[ComfyServer]:
    """With the pack symlinked, uninstalled; a writer, a corrupt model, and a picture as input."""
    server = ComfyServer(tmp_path_factory.mktemp("comfy"))
    comfy_server.link_pack(server, ROOT, NAME)
    comfy_server.link_pack(server, ROOT / "tests" / "comfy_pack", "test_pack")
    models = server.base / "models" / "artimuse"
    writer = shutil.copytree(tiny_checkpoint, models / "writer")
    config = json.loads((writer / "config.json").read_text())
    (writer / "config.json").write_text(json.dumps(config | {"critiques": True}))
    corrupt = shutil.copytree(tiny_bundle, models / "corrupt")
    graph = next(corrupt.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:1000])
    Image.radial_gradient("L").convert("RGB").resize((320, 200)).save(
        server.base / "input" / "example.png"
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def node(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}


def preview(source: str, slot: int = 0) -> dict[str, object]:
    return node("PreviewImage", images=[source, slot])


def pictures(levels: str, *, as_list: bool = False) -> dict[str, object]:
    return node("TestPictures", levels=levels, as_list=as_list)


def choosing(source: str = "1", **changes: object) -> dict[str, object]:
    inputs = {
        "images": [source, 0], "rule": "top count", "count": 1, "percent": 10.0,
        "threshold": 50.0, "min_difference": 5.0, "order": "best first",
    }  # fmt: skip
    return node("ArtiMuseSelect", **(inputs | changes))


# The stand-in of the unit tests


def test_the_stub_has_the_real_signatures() -> None:
    """Read from the source, so that the tests' interpreter needs none of ComfyUI's packages."""
    source = Path(str(comfy_server.PATH), "comfy_api", "latest", "_io.py").read_text()
    classes = {item.name: item for item in ast.parse(source).body if isinstance(item, ast.ClassDef)}

    def parameters(owner: ast.ClassDef) -> set[str]:
        for item in owner.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return {argument.arg for argument in item.args.args} - {"self"}
        return set()

    for name, allowed in comfy_stub.INPUTS.items():
        own = [c for c in ast.walk(classes.get(name, classes["ComfyTypeIO"])) if c is not None]
        inputs = [c for c in own if isinstance(c, ast.ClassDef) and c.name == "Input"]
        real = parameters(inputs[0]) if inputs else set()
        assert allowed <= (real or parameters(classes["Input"])), name
    assert parameters(classes["Output"]) >= comfy_stub.OUTPUT
    schema = {item.target.id for item in classes["Schema"].body if isinstance(item, ast.AnnAssign)}
    assert set(inspect.signature(comfy_stub.Schema).parameters) <= schema
    hidden = {
        item.targets[0].id: item.value.value
        for item in classes["Hidden"].body
        if isinstance(item, ast.Assign)
    }
    assert {member.name: member.value for member in comfy_stub.Hidden}.items() <= hidden.items()
    for name, kind in comfy_stub.TYPES.items():
        decorators = [ast.unparse(decorator) for decorator in classes[name].decorator_list]
        assert any(f"'{kind}'" in text or "IO." in text for text in decorators), (name, decorators)


# The pack


def test_the_pack_imports_uninstalled_in_a_hyphenated_and_dotted_folder(comfy) -> None:
    info = comfy.call("/object_info")
    ours = {name for name, entry in info.items() if entry["python_module"].endswith(NAME)}
    assert ours == NODE_IDS
    seconds = re.search(rf"([\d.]+) seconds: .*{re.escape(NAME)}", comfy.log())
    assert seconds is not None
    assert float(seconds[1]) <= 0.3
    assert f"IMPORT FAILED): {NAME}" not in comfy.log()


def test_the_pack_imports_from_its_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", str(tmp_path), str(ROOT)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "base").mkdir()
    server = ComfyServer(tmp_path / "base")
    comfy_server.copy_pack(server, tmp_path / "site" / "artimuse", "artimuse")
    try:
        server.start()
        assert set(server.call("/object_info")) >= NODE_IDS
        assert "registerExtension" in server.text("/extensions/artimuse/artimuse.js")
        answer = server.run(
            {"1": node("EmptyImage", width=32, height=32, batch_size=1, color=0),
             "2": node("ArtiMuseScore", images=["1", 0])}
        )  # fmt: skip
        assert answer.status == "success"
    finally:
        server.stop()


def test_the_script_and_every_nodes_help_are_served(comfy) -> None:
    assert f"/extensions/{NAME}/artimuse.js" in comfy.call("/extensions")
    for name in NODE_IDS:
        for page in (f"{name}.md", f"{name}/zh.md"):
            text = comfy.text(f"/extensions/{NAME}/docs/{page}")
            assert text.startswith("# ArtiMuse "), page


def test_names_are_translated(comfy) -> None:
    translations = comfy.call("/i18n")
    assert set(translations) >= {"en", "zh"}
    info = comfy.call("/object_info")
    for language in ("en", "zh"):
        definitions = translations[language]["nodeDefs"]
        assert set(definitions) == NODE_IDS
        for name, definition in definitions.items():
            described = info[name]["input"]
            known = {**described.get("required", {}), **described.get("optional", {})}
            assert set(definition["inputs"]) == set(known), (language, name)


# What the nodes do


def test_a_batch_and_a_list_score_alike_and_the_second_run_computes_nothing(comfy) -> None:
    prompt = {
        "1": pictures("20,50,80"),
        "2": node("ArtiMuseScore", images=["1", 0]),
        "3": pictures("20,50,80", as_list=True),
        "4": node("ArtiMuseScore", images=["3", 0]),
    }
    answer = comfy.run(prompt)
    assert answer.status == "success", answer.error
    batch, mixed = answer.outputs["2"]["score"], answer.outputs["4"]["score"]
    assert len(batch) == 3
    assert batch == pytest.approx(mixed, abs=0.01)  # flat greys: their size does not matter
    again = comfy.run(prompt)
    assert set(again.cached) == {"1", "2", "3", "4"}


def test_a_score_equals_the_command_lines_on_the_saved_file(comfy) -> None:
    answer = comfy.run(
        {
            "1": node("LoadImage", image="example.png"),
            "2": node("ArtiMuseScore", images=["1", 0]),
            "3": node(
                "ArtiMuseSaveImage", images=["1", 0], filename_prefix="equal/%score%", rating=True
            ),
        }
    )
    assert answer.status == "success", answer.error
    (shown,) = answer.outputs["3"]["images"]
    file = comfy.base / "output" / shown["subfolder"] / shown["filename"]
    from artimuse import Scorer

    (score,) = answer.outputs["2"]["score"]
    assert Scorer.load().score(file)[0].score == pytest.approx(score, abs=0.01)
    with Image.open(file) as image:
        assert json.loads(image.text["artimuse"])["score"] == pytest.approx(score, abs=0.01)
        assert json.loads(image.text["prompt"])["2"]["class_type"] == "ArtiMuseScore"


def test_chosen_and_rejected_go_on_separately(comfy) -> None:
    answer = comfy.run(
        {
            "1": pictures("20,50,80", as_list=True),
            "2": choosing(count=2),
            "3": preview("2"),
            "4": preview("2", 6),
        }
    )
    assert answer.status == "success", answer.error
    assert len(answer.outputs["3"]["images"]) == 2
    assert len(answer.outputs["4"]["images"]) == 1


def test_an_empty_choice_stops_what_is_behind_and_nothing_else(comfy) -> None:
    answer = comfy.run(
        {
            "1": pictures("20,80"),
            "2": choosing(rule="threshold", threshold=100.0),
            "3": node("TestBomb", after=["2", 0]),
            "4": preview("3"),
            "5": preview("2", 6),
        }
    )
    assert answer.status == "success", answer.error
    assert "4" not in answer.outputs
    assert len(answer.outputs["5"]["images"]) == 2


def test_an_output_without_its_input_stops_what_is_behind(comfy) -> None:
    """The line that says what to wire goes to the editor alone; the unit tests read it."""
    answer = comfy.run(
        {
            "1": pictures("20,80"),
            "2": choosing(),
            "3": node("PreviewAny", source=["2", 4]),
            "4": node("PreviewAny", source=["2", 8]),
        }
    )
    assert answer.status == "success", answer.error
    assert set(answer.outputs) == {"2", "4"}


@pytest.mark.parametrize(("score", "branch"), [(99.0, "failed"), (0.0, "passed")])
def test_the_branch_not_taken_is_not_computed(comfy, score: float, branch: str) -> None:
    branches = {"passed": ["3", 0], "failed": ["3", 0], branch: ["1", 0]}
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node("ArtiMuseScore", images=["1", 0]),
            "3": node("TestBomb", after=["1", 0]),
            "4": node("ArtiMuseGate", score=["2", 2], threshold=score, judge_by="best", **branches),
            "5": preview("4"),
        }
    )
    assert answer.status == "success", answer.error
    assert len(answer.outputs["5"]["images"]) == 1


def test_a_failed_gate_without_a_branch_stops_silently(comfy) -> None:
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node("ArtiMuseBestOfN", images=["1", 0]),
            "3": node("TestBomb", after=["1", 0]),
            "4": node(
                "ArtiMuseGate", score=["2", 2], threshold=100.0, judge_by="best", passed=["3", 0]
            ),
            "5": preview("4"),
        }
    )
    assert answer.status == "success", answer.error
    assert "5" not in answer.outputs


def test_a_run_can_be_interrupted(comfy) -> None:
    levels = ",".join(str(index % 100) for index in range(4000))
    submitted = comfy.submit({"1": pictures(levels), "2": node("ArtiMuseScore", images=["1", 0])})
    until = time.monotonic() + 60
    while not comfy.call("/queue")["queue_running"] and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.5)
    started = time.monotonic()
    comfy.call("/interrupt", {})
    assert comfy.wait(submitted).status == "interrupted"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("class_type", "combo"), [("ArtiMuseLoader", "model"), ("ArtiMuseLoader", "device")]
)
def test_a_combo_that_was_not_offered_is_refused_before_the_run(comfy, class_type, combo) -> None:
    loader = {"model": "nano", "device": "auto", "dtype": "auto"} | {combo: "../../etc"}
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node(class_type, **loader),
            "3": node("ArtiMuseScore", images=["1", 0], model=["2", 0]),
        }
    )
    assert answer.status == "rejected"
    assert "unknown " + combo in answer.error


def test_a_wrong_rule_is_refused_before_the_run(comfy) -> None:
    answer = comfy.run({"1": pictures("50"), "2": choosing(rule="../x"), "3": preview("2")})
    assert answer.status == "rejected"
    assert "unknown rule" in answer.error


def test_a_corrupt_model_says_which_file(comfy) -> None:
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node("ArtiMuseLoader", model="corrupt", device="auto", dtype="auto"),
            "3": node("ArtiMuseScore", images=["1", 0], model=["2", 0]),
        }
    )
    assert answer.status == "error"
    assert "truncated or changed" in answer.error


def test_a_name_outside_the_output_folder_is_refused(comfy) -> None:
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node(
                "ArtiMuseSaveImage", images=["1", 0], filename_prefix="../../x", rating=False
            ),
        }
    )
    assert answer.status == "error"
    assert "outside the output folder" in answer.error


def test_a_torch_model_scores_writes_and_is_comfyuis_to_unload(comfy) -> None:
    attributes = {
        name: name == "overall_gestalt"
        for name in comfy.call("/object_info/ArtiMuseCritique")["ArtiMuseCritique"]["input_order"][
            "required"
        ]
        if name not in ("images", "max_new_tokens")
    }

    def prompt(levels: str) -> dict[str, object]:
        return {
            "1": pictures(levels),
            "2": node("ArtiMuseLoader", model="writer", device="auto", dtype="auto"),
            "3": node("ArtiMuseScore", images=["1", 0], model=["2", 0]),
            "4": node(
                "ArtiMuseCritique",
                images=["1", 0],
                model=["2", 0],
                max_new_tokens=5,
                **attributes,
            ),
        }

    answer = comfy.run(prompt("20,80"))
    assert answer.status == "success", answer.error
    assert answer.outputs["4"]["score"] == pytest.approx(answer.outputs["3"]["score"], abs=0.01)
    assert [list(texts) for texts in answer.outputs["4"]["critique"]] == [["Overall Gestalt"]] * 2
    assert "Requested to load ScoringGraph" in comfy.log()
    comfy.call("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.5)  # the queue's thread looks for it once a second
    after = comfy.run(prompt("80,20"))
    assert after.outputs["3"]["score"] == pytest.approx(answer.outputs["3"]["score"][::-1])


def test_nano_writes_and_is_said_to_be_a_draft(comfy) -> None:
    order = comfy.call("/object_info/ArtiMuseCritique")["ArtiMuseCritique"]["input_order"]
    inputs = dict.fromkeys(order["required"], True)
    answer = comfy.run(
        {
            "1": pictures("50"),
            "2": node("ArtiMuseCritique", **inputs | {"images": ["1", 0], "max_new_tokens": 5}),
        }
    )
    assert answer.status == "success"


# The example workflows


def as_prompt(comfy: ComfyServer, path: Path) -> dict[str, object]:
    """As the editor would send it, with models that fit into a test."""
    prompt = comfy_server.api_format(
        json.loads(path.read_text("utf-8")), comfy.call("/object_info")
    )
    for entry in prompt.values():
        inputs = entry["inputs"]
        if entry["class_type"] == "CheckpointLoaderSimple":
            entry["class_type"] = "TestTinyCheckpoint"
        if entry["class_type"] == "ArtiMuseLoader":
            inputs["model"] = "writer"
        if entry["class_type"] == "EmptyLatentImage":
            inputs |= {"width": 64, "height": 64}
        for name, most in (("steps", 2), ("max_new_tokens", 4)):
            if isinstance(inputs.get(name), int):
                inputs[name] = min(inputs[name], most)
    return prompt


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_example_workflow_runs_and_has_its_picture(comfy, path: Path) -> None:
    assert path.with_suffix(".jpg").is_file()
    assert path.stem in comfy.call("/workflow_templates")[NAME]
    answer = comfy.run(as_prompt(comfy, path))
    assert answer.status == "success", answer.error
    assert answer.outputs


def test_there_are_example_workflows() -> None:
    assert len(WORKFLOWS) >= 4


def test_retrying_stops_at_the_first_batch_that_is_good_enough(comfy) -> None:
    prompt = as_prompt(comfy, ROOT / "example_workflows" / "retry_until_good.json")
    gates = [entry for entry in prompt.values() if entry["class_type"] == "ArtiMuseGate"]
    samplers = [entry for entry in prompt.values() if entry["class_type"] == "KSampler"]

    def batches_sampled(threshold: float, seed: int) -> int:
        for gate in gates:
            gate["inputs"]["threshold"] = threshold
        for offset, sampler in enumerate(samplers):
            sampler["inputs"]["seed"] = seed + offset  # never sampled before, so never cached
        before = comfy.log().count(comfy_pack.DECODED)
        answer = comfy.run(prompt)
        assert answer.status == "success", answer.error
        return comfy.log().count(comfy_pack.DECODED) - before

    assert batches_sampled(threshold=0.0, seed=100) == 1
    assert batches_sampled(threshold=100.0, seed=200) == len(samplers) == 3
