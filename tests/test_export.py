import hashlib
import importlib.util
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from artimuse import Scorer
from artimuse.artimuse_core import bundle, checkpoint, selftest
from artimuse.artimuse_core.errors import MissingExtraError, ModelError, UsageError
from artimuse.artimuse_core.models import NANO, locate
from artimuse.artimuse_core.pictures import render_pictures
from artimuse.artimuse_core.preprocess import preprocess_batch
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.artimuse_core.torch_graph import build_graph
from artimuse.cli import main
from artimuse.export import fp8, to_onnx, verify
from artimuse.export.fp8 import quantize_fp8
from artimuse.export.products import first_block, quantized_products
from artimuse.export.store import store
from artimuse.export.to_onnx import Recipe
from artimuse.export.trace import trace_scorer

from .conftest import agrees


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A copy of the tiny bundle to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def test_bundle_and_torch_agree(tiny_checkpoint, tiny_bundle, pictures) -> None:
    agrees(Scorer.load(tiny_bundle), Scorer.load(tiny_checkpoint, "cpu"), pictures)


def test_shipped_nano_and_torch_agree(pictures) -> None:
    agrees(Scorer.load("nano", "cpu"), Scorer.load("nano", "cpu", backend="torch"), pictures)


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
    read = []
    load = checkpoint.load_model
    monkeypatch.setattr(checkpoint, "load_model", lambda *a, **k: read.append(1) or load(*a, **k))
    monkeypatch.setitem(verify.BOUNDS, "fp32", verify.Bound(-1.0))
    with pytest.raises(ModelError, match="differs too much from torch"):
        to_onnx.export_onnx(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
    assert read == [1]  # torch's answers and the artifact are of the same weights in memory


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
        ({"data_sha256": {"../score.onnx": ""}}, "no file of its own directory"),
        ({"writer": "me"}, "no manifest of this version"),
        ({"tensorrt": {"precision": "fp16", "min_batch": 9}}, "no TensorRT plan of this version"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(broken, change: dict, reason: str) -> None:
    path = broken / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=reason):
        Scorer.load(broken)


def test_shipped_weights_stay_small() -> None:
    assert sum(file.stat().st_size for file in locate(NANO).iterdir()) <= 16_000_000


@pytest.mark.parametrize(
    "precision",
    ["int8", *(pytest.param(slower, marks=pytest.mark.slow) for slower in ("int4", "fp8"))],
)
def test_fewer_bits_stay_within_their_bound(tmp_path, precision) -> None:
    directory = tmp_path / precision
    manifest = to_onnx.export_onnx(locate(NANO), directory, Recipe(precision))
    assert manifest == bundle.read(directory)
    assert manifest.precision == precision
    assert 0 < manifest.verification["max_score_error"] <= verify.BOUNDS[precision].points
    again = verify.verify_bundle(directory, "cpu")
    assert again.max_score_error == pytest.approx(manifest.verification["max_score_error"])
    assert all(check.ok for check in selftest.run(directory, "cpu"))
    fp32 = (locate(NANO) / to_onnx.GRAPH).stat().st_size
    assert (directory / to_onnx.GRAPH).stat().st_size < 0.85 * fp32


def test_int8_leaves_activations_alone_where_the_ranking_needs_them(
    tiny_checkpoint, tmp_path, caplog
) -> None:
    with caplog.at_level(logging.INFO, "artimuse.export"):
        manifest = to_onnx.export_onnx(
            tiny_checkpoint, tmp_path / "int8", Recipe("int8", inline_bytes=10_000)
        )
    assert "refused (weights and activations in int8" in caplog.text
    assert manifest.quantization == "weights in int8, activations in fp32"
    assert manifest.verification["srcc"] >= verify.BOUNDS["int8"].srcc
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8" / to_onnx.GRAPH).graph.node}
    assert "MatMulNBits" in kinds
    assert "DynamicQuantizeLinear" not in kinds
    assert {file.name for file in (tmp_path / "int8").iterdir()} == {
        *manifest.files, bundle.MANIFEST, bundle.GOLDEN,
    }  # fmt: skip  # nothing is left of what was refused


def test_int4_keeps_as_many_products_in_int8_as_the_ranking_needs(
    tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    tried = []

    def third_time_lucky(agreement, precision):
        tried.append(agreement)
        return len(tried) == 3

    monkeypatch.setattr(verify, "holds", third_time_lucky)
    monkeypatch.setattr(verify, "require", lambda *_: None)
    manifest = to_onnx.export_onnx(tiny_checkpoint, tmp_path / "int4", Recipe("int4"))
    assert manifest.quantization.startswith("weights of the last 50% of the products in int4")
    graph = onnx.load(tmp_path / "int4" / to_onnx.GRAPH).graph
    bits = [
        attribute.i
        for node in graph.node
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
        if attribute.name == "bits"
    ]
    half = len(bits) // 2
    assert half > 6
    assert bits == [8] * (len(bits) - half) + [4] * half
    errors = [agreement.mean_score_error for agreement in tried]
    assert errors[2] < errors[0]


def test_fp8_rounds_activations_to_what_they_reach(tiny_checkpoint, tmp_path) -> None:
    graph, _ = build_graph(tiny_checkpoint)
    model = trace_scorer(graph.freeze(keep_text=False).half(), batch=2)
    stored = tmp_path / "staged.onnx"
    store(model, tmp_path, stored.name)
    left = first_block(model)
    made = quantize_fp8(stored)
    assert len(left) == 6
    weights = {
        name: value.const_value.numpy().astype(np.float32)
        for name, value in made.graph.initializers.items()
        if name.endswith(".fp8")
    }
    products = quantized_products(ir.load(stored))
    assert len(weights) == len(products) > 6
    for rounded in weights.values():  # the whole range is used, and nothing is beyond it
        assert np.abs(rounded).max() == fp8.LARGEST
    scales = [
        float(value.const_value.numpy())
        for name, value in made.graph.initializers.items()
        if name.endswith(".scale") and name.removesuffix(".scale") + ".fp8" not in weights
    ]
    plan = fp8.insert_scales(ir.load(stored))
    assert plan.graph.num_nodes() == made.graph.num_nodes()
    assert min(scales) > 0
    assert max(scales) < 1  # measured: unmeasured, each is 1
    kept = next(node for node in made.graph if node.name == left[0])
    assert kept.inputs[1].dtype == ir.DataType.FLOAT16


def test_fp16_computes_in_fp16(tiny_checkpoint, tmp_path) -> None:
    manifest = to_onnx.export_onnx(tiny_checkpoint, tmp_path / "fp16", Recipe("fp16"))
    assert 1e-5 < manifest.verification["max_score_error"] <= verify.BOUNDS["fp16"].points
    assert Scorer.load(tmp_path / "fp16", "cpu").score(render_pictures(1))[0].ok


def test_bf16_is_verified_without_a_gpu_but_not_scored_with(tiny_checkpoint, tmp_path) -> None:
    directory = tmp_path / "bf16"
    manifest = to_onnx.export_onnx(tiny_checkpoint, directory, Recipe("bf16"))
    assert manifest.verification["ran_on"] == "cpu, bf16 emulated"
    # As coarse as eight bits are: an emulation that did not round would be as exact as fp32.
    assert 1e-3 < manifest.verification["max_score_error"] <= verify.BOUNDS["bf16"].points
    with pytest.raises(ModelError, match="on a GPU only"):
        Scorer.load(directory)
    with pytest.raises(ModelError, match="on a GPU only"):
        Scorer.load(directory, "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Image files, of which the last is none."""
    folder = tmp_path_factory.mktemp("photos")
    for index, picture in enumerate(render_pictures(5, seed=9)):
        picture.save(folder / f"{index}.png")
    (folder / "9.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def sharded(tiny_checkpoint, photos, tmp_path_factory) -> Path:
    """A bundle of several data files, for four images a run, by the oldest opset."""
    directory = tmp_path_factory.mktemp("sharded") / "bundle"
    recipe = Recipe(batch=4, opset=18, inline_bytes=10_000, shard_bytes=60_000)
    to_onnx.export_onnx(tiny_checkpoint, directory, recipe, images=photos)
    return directory


def test_weights_beyond_one_file_lie_in_hashed_shards(sharded, tiny_bundle, pictures) -> None:
    manifest = bundle.read(sharded)
    assert len(manifest.data_sha256) >= 2
    for name, digest in manifest.data_sha256.items():
        assert hashlib.sha256((sharded / name).read_bytes()).hexdigest() == digest
    assert {file.name for file in sharded.iterdir()} == {
        bundle.MANIFEST, bundle.GOLDEN, manifest.graph, *manifest.data_sha256,
    }  # fmt: skip
    agrees(Scorer.load(sharded), Scorer.load(tiny_bundle), pictures[:16])


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_data_file_is_refused(sharded, tmp_path, damage: str) -> None:
    copy = shutil.copytree(sharded, tmp_path / "bundle")
    name = list(bundle.read(copy).data_sha256)[-1]
    data = bytearray((copy / name).read_bytes())
    if damage == "missing":
        (copy / name).unlink()
    else:
        data[-9] ^= 1
        (copy / name).write_bytes(data if damage == "changed" else data[:-9])
    reason = "is missing" if damage == "missing" else "does not match its manifest"
    with pytest.raises(ModelError, match=f"{name} {reason}"):
        Scorer.load(copy)


def test_a_fixed_batch_takes_any_number_of_images(sharded, tiny_bundle, pictures) -> None:
    graph = onnx.load(sharded / to_onnx.GRAPH, load_external_data=False)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    for count in (1, 4, 7):
        scores = [r.score for r in Scorer.load(sharded).score(pictures[:count])]
        wanted = [r.score for r in Scorer.load(tiny_bundle).score(pictures[:count])]
        np.testing.assert_allclose(scores, wanted, atol=0.05)


def test_the_graph_says_what_it_is(sharded) -> None:
    graph = onnx.load(sharded / to_onnx.GRAPH, load_external_data=False)
    manifest = bundle.read(sharded)
    said = {prop.key: prop.value for prop in graph.metadata_props}
    assert said["artimuse.source_sha256"] == manifest.source_sha256
    assert json.loads(said["artimuse.token_table"]) == manifest.token_table
    assert (manifest.opset, graph.opset_import[0].version) == (18, 18)


def test_real_images_are_verified_too(sharded, photos, tiny_bundle, tmp_path) -> None:
    assert bundle.read(sharded).verification["images"] == verify.RENDERED + 5
    assert bundle.read(sharded).verification["real_images"] == 5
    assert verify.verify_bundle(sharded, "cpu", photos[1:3]).real_images == 2
    with pytest.raises(UsageError, match="none of these 6 images"):
        verify.verify_bundle(tiny_bundle, "cpu", photos)


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "fp4"}, {"opset": 19}, {"batch": -1},
        {"tools": "optimum", "precision": "int4"}, {"whole_pixels": True, "precision": "fp16"},
    ],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", " ")):
        Recipe(**wrong)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_optimums_tools_make_a_verified_bundle(tmp_path, precision) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="an environment of its own")
    directory = tmp_path / "bundle"
    manifest = to_onnx.export_onnx(locate(NANO), directory, Recipe(precision, tools="optimum"))
    kinds = {node.op_type for node in onnx.load(directory / to_onnx.GRAPH).graph.node}
    changed = {"int8": "DynamicQuantizeLinear", "fp32": "SimplifiedLayerNormalization"}
    assert changed[precision] in kinds
    assert Scorer.load(directory, "cpu").score(render_pictures(1))[0].ok
    assert manifest.verification["max_score_error"] <= verify.BOUNDS[precision].points


def test_optimum_that_is_not_installed_is_named(tiny_checkpoint, tmp_path) -> None:
    if importlib.util.find_spec("optimum"):
        pytest.skip("it is installed here")
    with pytest.raises(MissingExtraError, match=r"artimuse\[optimum\]"):
        to_onnx.export_onnx(tiny_checkpoint, tmp_path / "a", Recipe(tools="optimum"))


def test_export_from_the_command_line(tiny_checkpoint, photos, tmp_path) -> None:
    output = str(tmp_path / "bundle")
    wanted = ["--model", str(tiny_checkpoint), "--output", output, "--images", str(photos[0])]
    runner = CliRunner()
    wrong = runner.invoke(main, ["export", "onnx", *wanted, "--batch", "0"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "expected dynamic" in wrong.stderr
    done = runner.invoke(main, ["export", "onnx", *wanted])
    assert (done.exit_code, done.stdout) == (0, output + "\n")
    assert "65 images (1 real)" in done.stderr
    again = runner.invoke(main, ["export", "verify", output, "--images", str(photos[0])])
    assert again.exit_code == 0
    assert "65 images (1 real) on cpu" in again.stdout


def test_a_bundle_verifies_itself_anywhere_and_says_when_it_differs(broken) -> None:
    assert verify.verify_bundle(broken, "cpu").images == verify.RENDERED
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
