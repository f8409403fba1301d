import json
import shutil

import numpy as np
import pytest

from artimuse import Scorer
from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.models import NANO, locate
from artimuse.artimuse_core.pictures import render_pictures
from artimuse.artimuse_core.preprocess import preprocess_batch
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.export import to_onnx, verify


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A copy of the tiny bundle to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def test_bundle_and_torch_agree(tiny_checkpoint, tiny_bundle, pictures) -> None:
    agrees(Scorer.load(tiny_bundle), Scorer.load(tiny_checkpoint, "cpu"), pictures)


def test_shipped_nano_and_torch_agree(pictures) -> None:
    agrees(Scorer.load("nano", "cpu"), Scorer.load("nano", "cpu", backend="torch"), pictures)


def agrees(onnx: Scorer, torch: Scorer, pictures) -> None:
    """score_logits within 1e-3, scores within 0.05; batch size and order within 1e-3 points."""
    pixels = preprocess_batch(pictures, onnx.input_size)
    ours, theirs = onnx.engine.score_logits(pixels), torch.engine.score_logits(pixels)
    assert np.abs(ours - theirs).max() < 1e-3
    scores = [r.score for r in onnx.score(pictures, batch_size=16)]
    np.testing.assert_allclose(scores, [r.score for r in torch.score(pictures)], atol=0.05)
    assert np.std(scores) > 0.1  # a model that answers the same to everything would pass too
    for other in (
        [r.score for r in onnx.score(pictures, batch_size=1)],
        [r.score for r in onnx.score(pictures[::-1], batch_size=7)][::-1],
    ):
        np.testing.assert_allclose(other, scores, atol=1e-3)


def test_manifest_says_where_it_comes_from(tiny_bundle) -> None:
    manifest = bundle.read(tiny_bundle)
    assert (manifest.name, manifest.input_size, manifest.precision) == ("tiny", 32, "fp32")
    assert manifest.tokens().tokens == ORDERED_100.tokens
    assert manifest.tokens().values == ORDERED_100.values
    assert manifest.verification["images"] >= 50
    assert manifest.verification["max_score_error"] < verify.BOUNDS["fp32"].points
    assert len(manifest.source_sha256) == len(manifest.prompt_sha256) == 64
    assert manifest.tools["onnx"]


def test_graph_holds_no_trace_of_its_maker(tiny_bundle) -> None:
    data = (tiny_bundle / to_onnx.GRAPH).read_bytes()
    assert b"site-packages" not in data
    assert b".py" not in data


def test_weights_that_fit_fp16_are_stored_in_fp16(tiny_checkpoint, tiny_bundle) -> None:
    graph = (tiny_bundle / to_onnx.GRAPH).stat().st_size
    assert graph < 1.3 * (tiny_checkpoint / "model.safetensors").stat().st_size


def test_existing_output_is_not_touched(tiny_checkpoint, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        to_onnx.export_onnx(tiny_checkpoint, tmp_path)


def test_an_artifact_that_disagrees_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(verify.BOUNDS, "fp32", verify.Bound(-1.0))
    with pytest.raises(ModelError, match="differs too much from torch"):
        to_onnx.export_onnx(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_graph_is_refused(broken) -> None:
    graph = broken / to_onnx.GRAPH
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(ModelError, match="does not match its manifest"):
        Scorer.load(broken)
    graph.unlink()
    with pytest.raises(ModelError, match="is missing"):
        Scorer.load(broken)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "update artimuse"),
        ({"token_table": {"aa": 0, "ab": 200}}, r"0\.\.100"),
        ({"preprocessing": {"fit": "crop"}}, "asks for preprocessing"),
        ({"colour": "blue"}, "no manifest of this version"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(broken, change: dict, reason: str) -> None:
    path = broken / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=reason):
        Scorer.load(broken)


def test_shipped_weights_stay_small() -> None:
    assert sum(file.stat().st_size for file in locate(NANO).iterdir()) <= 16_000_000


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_fewer_bits_stay_within_their_bound(tmp_path, precision) -> None:
    bundle_dir = to_onnx.export_onnx(locate(NANO), tmp_path / precision, precision=precision)
    manifest = bundle.read(bundle_dir)
    assert manifest.precision == precision
    assert 0 < manifest.verification["max_score_error"] <= verify.BOUNDS[precision].points
    again = verify.verify_bundle(bundle_dir, "cpu")
    assert again.max_score_error == pytest.approx(manifest.verification["max_score_error"])


def test_a_bundle_verifies_itself_anywhere_and_says_when_it_differs(broken) -> None:
    assert verify.verify_bundle(broken, "cpu").images == verify.IMAGES
    golden = dict(np.load(broken / bundle.GOLDEN))
    golden["score_logits"][5, 50] += 9
    np.savez(broken / bundle.GOLDEN, **golden)
    with pytest.raises(ModelError, match="differs too much"):
        verify.verify_bundle(broken, "cpu")
    (broken / bundle.GOLDEN).unlink()
    with pytest.raises(ModelError, match=r"cannot read .*golden"):
        verify.verify_bundle(broken, "cpu")


def test_pictures_that_look_alike_have_close_embeddings(tiny_bundle, tiny_checkpoint) -> None:
    from PIL import ImageEnhance

    pictures = render_pictures(12, seed=4)
    alike = [ImageEnhance.Brightness(p).enhance(1.03) for p in pictures]
    engine = Scorer.load(tiny_bundle).engine
    size = Scorer.load(tiny_bundle).input_size
    a, b = (
        engine.score_and_embed(preprocess_batch(images, size))[1] for images in (pictures, alike)
    )
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    similar = a @ b.T
    assert (similar.argmax(axis=1) == np.arange(12)).mean() > 0.9
