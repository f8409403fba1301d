"""The nodes without ComfyUI, over a stand-in of its V3 API."""

import asyncio
import importlib
import json
import re
import shutil
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.critic import DRAFT
from artimuse.artimuse_core.errors import ImageInputError, ModelError, UsageError
from artimuse.artimuse_core.scorer import Scorer

from . import comfy_stub
from .comfy_run import Run, brightness, brightness_model, grey, nodes
from .fakes import brightness_scorer

# The pack as a whole


def test_node_ids_never_change(comfy) -> None:
    assert list(nodes()) == [
        "ArtiMuseLoader",
        "ArtiMuseScore",
        "ArtiMuseCritique",
        "ArtiMuseSelect",
        "ArtiMuseGate",
        "ArtiMuseSaveImage",
        "ArtiMuseScorePlot",
        "ArtiMuseBestOfN",
    ]


def test_everything_a_user_sees_is_named_and_explained(comfy) -> None:
    for node in nodes().values():
        schema = node.define_schema()
        assert re.fullmatch(r"ArtiMuse \w+( \w+)*", schema.display_name)
        assert schema.category == "ArtiMuse"
        assert schema.description
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.options.get("tooltip"), f"{schema.node_id}.{socket.id}"
        for socket in schema.outputs:  # without one, the editor shows its type
            assert socket.options.get("display_name"), f"{schema.node_id}.{socket.id}"


def test_ids_are_unique_across_inputs_and_outputs(comfy) -> None:
    for node in nodes().values():
        schema = node.define_schema()
        ids = [socket.id for socket in [*schema.inputs, *schema.outputs]]
        assert len(ids) == len(set(ids)), schema.node_id


def test_a_newer_schema_gets_what_it_knows(comfy, monkeypatch) -> None:
    from dataclasses import field, make_dataclass

    newer = make_dataclass(
        "Newer",
        [("search_aliases", list, field(default_factory=list))],
        bases=(comfy_stub.Schema,),
    )
    monkeypatch.setattr(comfy_stub.sys.modules["comfy_api.latest"].io, "Schema", newer)
    assert "aesthetic" in nodes()["ArtiMuseScore"].define_schema().search_aliases


def test_a_pack_that_cannot_load_logs_its_reason(comfy, monkeypatch, caplog) -> None:
    import artimuse

    monkeypatch.delattr(comfy_stub.sys.modules["comfy_api.latest"], "ComfyExtension")
    importlib.invalidate_caches()
    with pytest.raises(ImportError):
        asyncio.run(artimuse.comfy_entrypoint())
    assert "could not be loaded" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("node_id", "combo"),
    [
        ("ArtiMuseLoader", "model"),
        ("ArtiMuseLoader", "device"),
        ("ArtiMuseLoader", "dtype"),
        ("ArtiMuseLoader", "quantize"),
        ("ArtiMuseSelect", "rule"),
        ("ArtiMuseSelect", "order"),
        ("ArtiMuseGate", "judge_by"),
        ("ArtiMuseScorePlot", "order"),
    ],
)
def test_every_combo_is_checked_before_the_run(comfy, node_id: str, combo: str) -> None:
    node = nodes()[node_id]
    socket = next(s for s in node.define_schema().inputs if s.id == combo)
    for value in socket.options["options"]:
        as_list = node.define_schema().is_input_list
        assert node.validate_inputs(**{combo: [value] if as_list else value}) is True
    answer = node.validate_inputs(**{combo: "../../etc"})
    assert isinstance(answer, str)
    assert "../../etc" in answer
    assert socket.options["options"][0] in answer


# Loader


def test_loader_offers_nano_and_the_folders_it_finds(comfy, tmp_path, tiny_bundle) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "models" / "artimuse" / "mine")
    from artimuse.artimuse_core.models import PUBLISHED

    model, *others = nodes()["ArtiMuseLoader"].define_schema().inputs
    assert model.options["options"] == ["nano", "mine", *PUBLISHED]
    assert all(socket.options["optional"] for socket in others)
    loaded = Run("ArtiMuseLoader", model="mine")["artimuse_model"]
    assert loaded.scorer.name == "tiny"


def test_a_model_is_loaded_once_and_again_when_its_files_change(
    comfy, tmp_path, tiny_bundle
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "models" / "artimuse" / "mine")
    loader = nodes()["ArtiMuseLoader"]
    (model,) = loader.execute("mine").args
    assert loader.execute("mine").args[0] is model
    import os

    os.utime(folder / "manifest.json", ns=(10**18, 4 * 10**18))
    assert loader.execute("mine").args[0] is not model


def test_a_checkpoint_that_cannot_be_downloaded_says_where_to_put_it(comfy, monkeypatch) -> None:
    from artimuse.comfy_nodes import models

    def offline(name: str) -> Path:
        raise ModelError(f"cannot download {name}")

    monkeypatch.setattr(models, "locate", offline)
    loader = nodes()["ArtiMuseLoader"]
    assert loader.validate_inputs(model="artimuse") is True  # nothing is downloaded to check it
    with pytest.raises(ModelError, match=r"cannot download artimuse; .*models.artimuse.artimuse"):
        loader.execute("artimuse")


@pytest.mark.parametrize("name", ["../../etc", "/", "", "unknown", "gpt2"])
def test_a_name_that_was_not_offered_is_refused_and_the_place_named(comfy, name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown model.*models.artimuse"):
        nodes()["ArtiMuseLoader"].execute(name)


def test_a_broken_bundle_says_which_file(comfy, tmp_path, tiny_bundle) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "models" / "artimuse" / "broken")
    graph = next(folder.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"broken.*truncated"):
        nodes()["ArtiMuseLoader"].execute("broken")


def test_a_checkpoint_is_read_by_its_own_score_tokens(comfy, tmp_path, tiny_checkpoint) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "models" / "artimuse" / "fifty")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"score_tokens": "existing-50"}))
    loaded = Run("ArtiMuseLoader", model="fifty")["artimuse_model"]
    pixels = Image.new("RGB", (40, 30), "teal")
    (ours,), (theirs,) = loaded.ready().score([pixels]), Scorer.load(folder, "cpu").score([pixels])
    assert ours.score == pytest.approx(theirs.score, abs=1e-3)


def test_comfyui_owns_the_memory_of_a_torch_model(comfy, tmp_path, tiny_checkpoint) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "models" / "artimuse" / "mine")
    model = Run("ArtiMuseLoader", model="mine")["artimuse_model"]
    assert model.patcher.model is model.scorer.engine.runner.graph
    Run("ArtiMuseScore", images=grey(50), model=model)
    ((models, memory, full),) = comfy.loaded
    assert models == [model.patcher]
    assert memory > 0
    assert full


def test_comfyui_can_make_room_because_devices_have_its_own_names(comfy) -> None:
    from artimuse.comfy_nodes.models import comfyui_name

    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    assert comfyui_name(torch.device("cuda"), first) == first != torch.device("cuda")
    assert comfyui_name(second, first) == second
    assert comfyui_name(torch.device("cpu"), first) == torch.device("cpu")


# Score


def test_batches_and_lists_of_mixed_sizes_score_in_order(comfy) -> None:
    run = Run("ArtiMuseScore", images=[grey(10, 30), grey(90, size=12)], model=brightness_model())
    assert run["score"] == pytest.approx([10, 30, 90], abs=0.5)
    assert len(run["spread"]) == 3
    assert run["best_score"] == max(run["score"])
    assert run["mean"] == pytest.approx(sum(run["score"]) / 3)
    heads = [line.split(":")[0] for line in run["report"].splitlines()]
    assert heads == ["brightness", "#2", "#1", "#0"]
    assert comfy.progress == [(1, 3)] * 3


def test_the_widget_gets_scores_spreads_and_distributions(comfy) -> None:
    run = Run("ArtiMuseScore", images=grey(20, 70), model=brightness_model())
    assert run.ui["score"] == run["score"]
    assert run.ui["spread"] == run["spread"]
    assert [len(row) for row in run.ui["distribution"]] == [101, 101]
    for row, score in zip(run.ui["distribution"], run["score"], strict=True):
        assert np.dot(row, range(101)) == pytest.approx(score, abs=0.1)
    json.dumps(run.ui, allow_nan=False)


def test_without_a_model_nano_scores(comfy) -> None:
    assert Run("ArtiMuseScore", images=grey(50))["report"].startswith("nano: ")


def test_a_run_can_be_interrupted(comfy) -> None:
    comfy.interrupt_after = 3
    with pytest.raises(comfy_stub.InterruptedRunError):
        Run("ArtiMuseScore", images=grey(*[50] * 40), model=brightness_model())
    assert len(comfy.progress) == 3


def test_an_empty_batch_is_named(comfy) -> None:
    with pytest.raises(ImageInputError, match="empty batch"):
        Run("ArtiMuseScore", images=torch.zeros(0, 8, 8, 3), model=brightness_model())


# Save


def saved(run: Run) -> list[Path]:
    return [Path(file) for file in run["files"]]


def test_saved_pixels_are_the_scored_pixels(comfy) -> None:
    random = np.random.default_rng(0).random((1, 40, 30, 3), np.float32)
    image = torch.from_numpy(random)
    run = Run("ArtiMuseSaveImage", images=image, model=brightness_model())
    (path,) = saved(run)
    score = Run("ArtiMuseScore", images=image, model=brightness_model())["score"]
    assert [result.score for result in brightness_scorer().score(path)] == score


def test_name_and_metadata_carry_the_score(comfy, tmp_path) -> None:
    run = Run(
        "ArtiMuseSaveImage",
        images=[grey(20), grey(80, size=12)],
        filename_prefix="run/%score%_%rank%_%index%",
        model=brightness_model(),
    )
    names = [path.name for path in saved(run)]
    assert names == ["020.00_0002_0000_00001_.png", "080.00_0001_0001_00001_.png"]
    with Image.open(saved(run)[1]) as image:
        assert image.size == (12, 12)
        ours = json.loads(image.text["artimuse"])
        assert ours["score"] == pytest.approx(80, abs=0.5)
        assert ours["std"] > 0
        assert json.loads(image.text["prompt"]) == {"1": {}}
        assert json.loads(image.text["workflow"]) == 1
        assert "XML:com.adobe.xmp" not in image.text
    assert run.ui["images"][0] == {"filename": names[0], "subfolder": "run", "type": "output"}


def test_alpha_is_saved_beside_the_scored_pixels(comfy) -> None:
    image = torch.rand(1, 8, 8, 4, generator=torch.Generator().manual_seed(0))
    kept = [
        saved(Run("ArtiMuseSaveImage", images=i, scores=[1.0])) for i in (image, image[..., :3])
    ]
    with Image.open(kept[0][0]) as both, Image.open(kept[1][0]) as colours:
        assert (both.mode, colours.mode) == ("RGBA", "RGB")
        assert both.convert("RGB").tobytes() == colours.tobytes()
        alpha = np.asarray(both)[..., 3] / 255
    np.testing.assert_allclose(alpha, image[0, ..., 3], atol=0.5 / 255)


def test_dates_are_written_as_comfyuis_editor_does(comfy) -> None:
    from artimuse.comfy_nodes.save import fill_pattern

    then = datetime(2026, 3, 9, 14, 5, 7)
    pattern = "%date:yyyy-MM-dd%/%date:yy.M.d hhmmss h:m:s%_%score%_%width%"
    filled = fill_pattern(pattern, 50, None, 1, 0, then)
    assert filled == "2026-03-09/26.3.9 140507 14:5:7_050.00_%width%"
    run = Run("ArtiMuseSaveImage", images=grey(70), scores=[1.0], filename_prefix="a%date:yyyy%")
    assert re.fullmatch(r"a\d{4}_00001_\.png", saved(run)[0].name)


def test_stars_are_the_papers_levels(comfy) -> None:
    from artimuse.comfy_nodes.save import stars

    assert [stars(s) for s in (0, 20, 20.1, 60, 60.1, 80.1, 100)] == [1, 1, 2, 3, 4, 5, 5]
    run = Run("ArtiMuseSaveImage", images=grey(70), rating=True, model=brightness_model())
    with Image.open(saved(run)[0]) as image:
        (description,) = ElementTree.fromstring(image.text["XML:com.adobe.xmp"])[0]
    assert description.get("{http://ns.adobe.com/xap/1.0/}Rating") == "4"


def test_metadata_can_be_switched_off_and_the_score_stays(comfy) -> None:
    comfy.args.disable_metadata = True
    run = Run("ArtiMuseSaveImage", images=grey(70), model=brightness_model())
    with Image.open(saved(run)[0]) as image:
        assert list(image.text) == ["artimuse"]


def test_no_file_is_ever_written_over(comfy) -> None:
    first, second = (
        saved(Run("ArtiMuseSaveImage", images=grey(70, 70), scores=[1.0, 1.0])) for _ in range(2)
    )
    assert len({*first, *second}) == 4


# Score Plot, Best of N


def test_the_contact_sheet_shows_every_image_best_first(comfy) -> None:
    run = Run(
        "ArtiMuseScorePlot",
        images=[grey(10, 90), grey(50, size=12)],
        columns=2,
        tile=64,
        model=brightness_model(),
    )
    sheet = run["contact_sheet"]
    assert sheet.shape == (1, 2 * (64 + 26 + 8) + 8, 2 * (64 + 8) + 8, 3)
    centres = [sheet[0, 8 + 32 + row, 8 + 32 + column] for row in (0, 98) for column in (0, 72)]
    assert [round(float(pixel[0]) * 100) for pixel in centres] == [90, 50, 10, 100]


def test_the_histogram_counts_every_score(comfy) -> None:
    def bars(*scores: float) -> set[int]:
        run = Run("ArtiMuseScorePlot", images=grey(*scores), scores=list(scores))
        blue = np.array([0x4A, 0x7F, 0xB5]) / 255
        pixels = run["histogram"][0].numpy()
        columns = np.flatnonzero((np.abs(pixels - blue).max(-1) < 0.01).any(0))
        return {int((column - 48) / (640 - 16 - 48) * 20) for column in columns}

    assert bars(2.0, 52.0, 97.0) == {0, 10, 19}
    assert bars(0.0, 100.0) == {0, 19}


def test_best_of_n_keeps_image_latent_and_place(comfy) -> None:
    latents = {"samples": torch.arange(3.0).reshape(3, 1, 1, 1)}
    run = Run("ArtiMuseBestOfN", images=grey(10, 90, 50), latents=latents, model=brightness_model())
    assert brightness([run["image"]]) == [90]
    assert float(run["latent"]["samples"]) == 1
    assert run["latent"]["batch_index"] == [1]
    assert run["index"] == 1
    assert run["best_score"] == pytest.approx(90, abs=0.5)


def test_best_of_n_without_latents_says_what_to_wire(comfy) -> None:
    run = Run("ArtiMuseBestOfN", images=grey(10, 90), scores=[2.0, 1.0])
    assert run["index"] == 0
    assert "wire its input 'latents'" in run["latent"].message


# Critique


@pytest.fixture
def writer(comfy, tmp_path, tiny_checkpoint):
    """A checkpoint that was not marked as scoring only; its texts are noise."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "models" / "artimuse" / "writer")
    config = json.loads((folder / "config.json").read_text())
    config["critiques"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return Run("ArtiMuseLoader", model="writer")["artimuse_model"]


def only(*keys: str) -> dict[str, bool]:
    return {attribute.key: attribute.key in keys for attribute in ATTRIBUTES}


def test_a_critique_equals_the_critics_and_shares_the_weights(comfy, tmp_path, writer) -> None:
    from artimuse.artimuse_core.critic import Critic

    image = torch.from_numpy(np.random.default_rng(0).random((1, 40, 30, 3), np.float32))
    run = Run(
        "ArtiMuseCritique",
        images=[image, image],
        model=writer,
        max_new_tokens=6,
        **only("overall_gestalt", "technical_execution"),
    )
    asked = [a for a in ATTRIBUTES if a.key in ("overall_gestalt", "technical_execution")]
    pixels = Image.fromarray((image[0].numpy() * 255 + 0.5).astype(np.uint8))
    wanted = Critic.load(writer.directory).critique(pixels, asked, max_new_tokens=6)
    assert run["overall_gestalt_text"] == [wanted.texts["Overall Gestalt"]] * 2
    row = json.loads(run["json"][0])
    assert row["critique"] == wanted.texts
    assert row["score"] == pytest.approx(wanted.result.score, abs=1e-3)
    assert run["critique"][0].startswith(f"Score: {wanted.result.score:.2f}\n\n")
    assert "switch it on" in run["theme_communication_text"].message
    assert writer.critic().writer.graph is writer.scorer.engine.runner.graph
    assert run.ui["critique"] == [wanted.texts] * 2


def test_a_critique_streams_and_stops_at_a_token(comfy, writer) -> None:
    inputs = {"images": grey(50), "model": writer, "max_new_tokens": 20}
    Run("ArtiMuseCritique", **inputs, **only("overall_gestalt"))
    whole = list(comfy.texts)
    assert len(whole) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(whole))
    comfy.texts.clear()
    comfy.progress.clear()
    comfy.interrupt_after = 2
    with pytest.raises(comfy_stub.InterruptedRunError):
        Run("ArtiMuseCritique", **inputs, **only("overall_gestalt"))
    assert comfy.texts == whole[:2]


def test_a_model_that_cannot_write_says_so_in_one_line(comfy, tiny_bundle) -> None:
    from artimuse.comfy_nodes.models import LoadedModel

    model = LoadedModel(Scorer.load(tiny_bundle, "cpu"), tiny_bundle)
    with pytest.raises(UsageError, match=r"tiny scores only.*ArtiMuse Loader") as refusal:
        Run("ArtiMuseCritique", images=grey(50), model=model)
    assert "\n" not in str(refusal.value)


def test_nano_writes_as_a_draft_without_torch(comfy) -> None:
    run = Run("ArtiMuseCritique", images=grey(50), **only("technical_execution"))
    assert run["technical_execution_text"][0].startswith(DRAFT)


def test_a_bundles_critic_is_made_once(comfy) -> None:
    from artimuse.comfy_nodes import models

    nano = models.load("nano")
    assert nano.critic() is nano.critic()


def test_a_critique_of_nothing_is_refused(comfy, writer) -> None:
    with pytest.raises(UsageError, match="switch on at least one"):
        Run("ArtiMuseCritique", images=grey(50), model=writer, **only())
