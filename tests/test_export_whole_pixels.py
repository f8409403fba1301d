"""The patch embedding in whole numbers: the same scores, on any CPU."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from artimuse import Scorer
from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.errors import ModelError
from artimuse.artimuse_core.models import NANO, locate
from artimuse.artimuse_core.preprocess import IMAGENET_STD, preprocess_batch
from artimuse.artimuse_core.torch_graph import build_graph
from artimuse.export import to_onnx, whole_pixels
from artimuse.export.to_onnx import Recipe
from artimuse.export.trace import trace_scorer

from .conftest import agrees


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with its patch embedding in whole numbers."""
    directory = tmp_path_factory.mktemp("whole") / "bundle"
    to_onnx.export_onnx(tiny_checkpoint, directory, Recipe(whole_pixels=True, critique=True))
    return directory


def test_whole_pixels_change_no_score(whole, tiny_checkpoint, pictures) -> None:
    agrees(Scorer.load(whole), Scorer.load(tiny_checkpoint, "cpu"), pictures)
    manifest = bundle.read(whole)
    assert manifest.quantization == whole_pixels.SAID
    assert manifest.verification["max_score_error"] < 1e-3
    for name in (manifest.graph, manifest.writer["prefill"]):
        kinds = [node.op_type for node in onnx.load(whole / name).graph.node]
        assert "Conv" not in kinds
        assert kinds.count("MatMulInteger") == 1


def test_whole_pixels_round_what_is_between_two(whole, pictures) -> None:
    scorer = Scorer.load(whole)
    pixels = preprocess_batch(pictures[:4], scorer.input_size)
    between = pixels + np.float32(0.4 / 255 / max(IMAGENET_STD))
    ours = scorer.engine.score_logits(pixels)
    np.testing.assert_array_equal(scorer.engine.score_logits(between), ours)
    above = pixels + np.float32(0.9 / 255 / min(IMAGENET_STD))
    assert np.abs(scorer.engine.score_logits(above) - ours).max() > 1e-4


def test_tables_add_up_to_the_filters_and_fit_every_cpus_products() -> None:
    filters = (
        np.random.default_rng(0).normal(size=(5, 3, 8, 8))
        * 10.0 ** np.arange(-2, 3)[:, None, None, None]
    )
    filters[3, 1] = 0.0
    filters[4] = 0.0
    tables, steps = whole_pixels.in_tables(filters)
    assert tables.dtype == np.int8
    assert np.abs(tables.astype(int)).max() == whole_pixels.LARGEST
    assert 2 * 255 * whole_pixels.LARGEST < 2**15  # where two products are added in 16 bits
    summed = np.einsum("tfcij,tf->fcij", tables.astype(float), steps)
    largest = np.abs(filters).max((1, 2, 3), keepdims=True)
    assert (np.abs(summed - filters) <= 1.1e-6 * largest + 1e-30).all()
    # What is rounded off does not add up over a plane.
    sums = np.abs((summed - filters).sum((2, 3)))
    assert (sums <= 6e-7 * largest[:, 0, 0] + 1e-30).all()


def test_int8_and_whole_pixels_go_together(tmp_path) -> None:
    recipe = Recipe("int8", whole_pixels=True)
    manifest = to_onnx.export_onnx(locate(NANO), tmp_path / "bundle", recipe)
    assert manifest.quantization.endswith(f"; {whole_pixels.SAID}")
    kinds = [node.op_type for node in onnx.load(tmp_path / "bundle" / to_onnx.GRAPH).graph.node]
    assert "Conv" not in kinds
    assert kinds.count("MatMulInteger") > 1


def test_whole_pixels_need_no_bias(tiny_checkpoint, tmp_path, pictures) -> None:
    torch_graph = build_graph(tiny_checkpoint)[0].freeze(keep_text=False)
    torch_graph.vision.embeddings.patch_embeddings.projection.bias.zero_()  # and is left out
    graph = trace_scorer(torch_graph)
    whole_pixels.embed_whole_pixels(graph)
    ir.save(graph, tmp_path / "score.onnx")
    pixels = preprocess_batch(pictures[:4], torch_graph.input_size)
    session = onnxruntime.InferenceSession(tmp_path / "score.onnx")
    ours = session.run(["score_logits"], {"pixel_values": pixels})[0]
    theirs = torch_graph(torch.from_numpy(pixels)).numpy()
    assert np.abs(ours - theirs).max() < 1e-3


def test_a_graph_without_patches_has_no_whole_pixels(tiny_checkpoint) -> None:
    graph = trace_scorer(build_graph(tiny_checkpoint)[0].freeze(keep_text=False))
    whole_pixels.embed_whole_pixels(graph)
    with pytest.raises(ModelError, match="no patch embedding"):
        whole_pixels.embed_whole_pixels(graph)
