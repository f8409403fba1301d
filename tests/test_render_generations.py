"""The sample generations that `make demo` ranks."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT


@pytest.fixture(scope="module")
def rendering():
    spec = importlib.util.spec_from_file_location(
        "render_generations", ROOT / "examples" / "render_generations.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["render_generations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def picture(rendering, name: str):
    return next(p for p in rendering.PICTURES if p.name == name)


def test_pictures_are_the_same_on_every_run(rendering, tmp_path) -> None:
    for name in ("julia", "poster_jazz"):
        one, two = (rendering.render(picture(rendering, name)) for _ in range(2))
        assert one.tobytes() == two.tobytes()
        first = rendering.save(one, tmp_path, picture(rendering, name)).read_bytes()
        assert rendering.save(two, tmp_path, picture(rendering, name)).read_bytes() == first


def test_there_are_about_forty_and_their_names_tell_them_apart(rendering) -> None:
    names = [p.name for p in rendering.PICTURES]
    files = names + [f"{p.name}_{how}" for p in rendering.PICTURES for how in p.spoils]
    assert 35 <= len(files) <= 50
    assert len(set(files)) == len(files)
    assert {how for p in rendering.PICTURES for how in p.spoils} == set(rendering.SPOILS)


def test_every_spoil_changes_the_picture_and_keeps_its_size(rendering) -> None:
    base = picture(rendering, "lagoon")
    image = rendering.render(base)
    assert image.size == base.size
    for how in rendering.SPOILS:
        spoiled = rendering.spoil(image, base, how)
        assert (spoiled.size, spoiled.mode) == (image.size, "RGB")
        difference = np.abs(np.asarray(spoiled).astype(int) - np.asarray(image)).mean()
        assert difference > 1.0, how


def test_files_carry_comfyuis_chunks(rendering, tmp_path) -> None:
    from artimuse.curation.metadata import read_metadata

    base = picture(rendering, "plums")
    path = rendering.save(Image.new("RGB", base.size), tmp_path, base, "noise")
    assert path.name == "plums_noise_00001_.png"
    with Image.open(path) as image:
        image.load()
        graph, canvas = json.loads(image.info["prompt"]), json.loads(image.info["workflow"])
        info = read_metadata(image.info)
    assert (info.prompt, info.generator) == (base.text, "ComfyUI")
    assert info.seed == graph["3"]["inputs"]["seed"] == rendering.seed_of("plums_noise")
    assert {node["class_type"] for node in graph.values()} >= {"KSampler", "SaveImage"}
    ids = {node["id"] for node in canvas["nodes"]}
    assert all(source in ids and target in ids for _, source, _, target, _, _ in canvas["links"])
    assert canvas["last_link_id"] == len(canvas["links"])
