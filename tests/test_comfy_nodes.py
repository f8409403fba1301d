import asyncio
import importlib
import re
import shutil

import pytest
import torch

from artimuse.artimuse_core.errors import UsageError

from . import comfy_stub
from .fakes import brightness_scorer


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    return comfy_stub.install(monkeypatch, tmp_path / "models")


def nodes() -> dict[str, type]:
    import artimuse

    extension = asyncio.run(artimuse.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def grey(*percents: float, size: int = 8) -> torch.Tensor:
    """ComfyUI's IMAGE: (B, H, W, C) floats in 0..1."""
    return torch.stack([torch.full((size, size, 3), percent / 100) for percent in percents])


def test_node_ids_never_change(comfy) -> None:
    assert list(nodes()) == ["ArtiMuseLoader", "ArtiMuseScore"]


def test_every_node_has_a_name_a_category_and_a_description(comfy) -> None:
    for node in nodes().values():
        schema = node.define_schema()
        assert re.fullmatch(r"ArtiMuse \w+", schema.display_name)
        assert schema.category == "ArtiMuse"
        assert schema.description


def test_batches_and_lists_of_mixed_sizes_score_in_order(comfy) -> None:
    images = [grey(10, 30), grey(90, size=12)]
    output = nodes()["ArtiMuseScore"].execute(images, [brightness_scorer()])
    score, spread, best, mean, report = output.args
    assert score == pytest.approx([10, 30, 90], abs=0.5)
    assert len(spread) == 3
    assert (best, mean) == (max(score), pytest.approx(sum(score) / 3))
    assert [line.split(":")[0] for line in report.splitlines()] == ["brightness", "#2", "#1", "#0"]
    assert output.ui["score"] == score
    assert isinstance(output.ui["text"], list)
    assert comfy.progress == [(1, 3)] * 3


def test_without_a_model_nano_scores(comfy) -> None:
    output = nodes()["ArtiMuseScore"].execute([grey(50)])
    assert output.args[4].startswith("nano: ")


def test_a_run_can_be_interrupted(comfy) -> None:
    comfy.interrupt_after = 3
    with pytest.raises(comfy_stub.InterruptedRunError):
        nodes()["ArtiMuseScore"].execute([grey(*[50] * 40)], [brightness_scorer()])
    assert len(comfy.progress) == 3


def test_loader_offers_nano_and_the_folders_it_finds(comfy, tmp_path, tiny_bundle) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "models" / "artimuse" / "mine")
    loader = nodes()["ArtiMuseLoader"]
    (model, device, dtype) = loader.define_schema().inputs
    assert model.options["options"] == ["nano", "mine"]
    assert device.options["optional"]
    assert dtype.options["optional"]
    (scorer,) = loader.execute("mine").args
    assert scorer.name == "tiny"
    assert loader.execute("mine").args[0] is scorer


@pytest.mark.parametrize("name", ["../../etc", "/", "", "unknown"])
def test_a_name_that_was_not_offered_is_refused(comfy, name: str) -> None:
    with pytest.raises(UsageError, match="unknown model"):
        nodes()["ArtiMuseLoader"].execute(name)


def test_a_pack_that_cannot_load_logs_its_reason(comfy, monkeypatch, caplog) -> None:
    import artimuse

    monkeypatch.setattr(comfy_stub.sys.modules["comfy_api.latest"].io, "Schema", None)
    monkeypatch.delattr(comfy_stub.sys.modules["comfy_api.latest"], "ComfyExtension")
    importlib.invalidate_caches()
    with pytest.raises(ImportError):
        asyncio.run(artimuse.comfy_entrypoint())
    assert "could not be loaded" in caplog.text
    assert "Traceback" in caplog.text
