"""Models in every layout: the same scores, or one clear line."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from artimuse import Scorer
from artimuse.artimuse_core import checkpoint, selftest
from artimuse.artimuse_core.bundle import GOLDEN
from artimuse.artimuse_core.errors import ModelError, OutOfMemoryError, UsageError
from artimuse.artimuse_core.preprocess import preprocess_batch
from artimuse.artimuse_core.torch_graph import GraphRunner, build_graph

from .conftest import python, random_checkpoint
from .fakes import brightness_scorer

RANK = 4


def scores(model: Path, pictures, **options) -> np.ndarray:
    scorer = Scorer.load(model, "cpu", backend="torch", **options)
    return np.array([result.score for result in scorer.score(pictures)])


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def native(tiny_checkpoint, tmp_path_factory) -> Path:
    return checkpoint.convert(tiny_checkpoint, tmp_path_factory.mktemp("native") / "tiny")


# --- layouts --------------------------------------------------------------------------------------


def test_a_converted_checkpoint_scores_and_asks_the_same(native, tiny_checkpoint, pictures) -> None:
    np.testing.assert_allclose(
        scores(native, pictures[:4]), scores(tiny_checkpoint, pictures[:4]), atol=1e-4
    )
    config = json.loads((native / "config.json").read_text())
    assert config["model_type"] == "internvl"
    assert checkpoint.score_prompt(config) == checkpoint.score_prompt(
        checkpoint.read_config(tiny_checkpoint)
    )
    stored = load_file(native / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_transformers_itself_reads_a_converted_checkpoint(
    native, tiny_checkpoint, pictures
) -> None:
    from transformers import InternVLForConditionalGeneration

    theirs = InternVLForConditionalGeneration.from_pretrained(native, dtype=torch.float32).eval()
    ours = checkpoint.load_model(tiny_checkpoint)
    theirs_state = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs_state[name]), name


def test_a_conversion_never_overwrites(native, tiny_checkpoint) -> None:
    with pytest.raises(UsageError, match="exists already"):
        checkpoint.convert(tiny_checkpoint, native)


def test_shards_are_read_through_their_index(copy, tiny_checkpoint, pictures) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(state)
    weight_map = {}
    for part in range(3):
        file = f"model-{part + 1:05d}-of-00003.safetensors"
        save_file({name: state[name] for name in names[part::3]}, copy / file)
        weight_map |= dict.fromkeys(names[part::3], file)
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(scores(copy, pictures[:2]), scores(tiny_checkpoint, pictures[:2]))
    (copy / file).unlink()
    with pytest.raises(ModelError, match=r"1 of 3 shards .* are missing"):
        Scorer.load(copy)


def test_a_tied_head_is_the_embedding_table(copy) -> None:
    state = load_file(copy / "model.safetensors")
    state.pop("language_model.lm_head.weight")
    save_file(state, copy / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 missing \(lm_head"):
        Scorer.load(copy)
    config = json.loads((copy / "config.json").read_text())
    config["llm_config"]["tie_word_embeddings"] = True
    (copy / "config.json").write_text(json.dumps(config))
    model = checkpoint.load_model(copy)
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


def test_half_precision_scores_are_close_to_the_references(shared_data) -> None:
    directory = shared_data / "official-tiny"
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    scorer = Scorer.load(directory / "checkpoint", "cpu", "bf16")
    for name, expected in golden["images"].items():
        (result,) = scorer.score(directory / "images" / name)
        assert abs(result.score - expected["score"]) <= 0.5


def test_loading_needs_little_more_memory_than_the_model(tmp_path, tiny_checkpoint) -> None:
    """256 MB of weights in four shards, cast to another dtype, in a process of its own."""
    script = """
from pathlib import Path
from artimuse.artimuse_core import weights, checkpoint
import torch
from safetensors.torch import save_file
folder = Path(sys.argv[1])
for part in range(4):
    save_file({f"t{part}": torch.ones(32, 1024, 1024, dtype=torch.float16)}, folder / f"{part}.safetensors")
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
torch.ones(4) @ torch.ones(4)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
kept = []
for shard in weights.read(weights.listing(folder)):
    kept += [tensor.to(torch.float32) for tensor in shard.values()]
print(peak() - before)
"""  # noqa: E501
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("reads the peak from /proc")
    assert float(python(script, tmp_path)) < 4 * 128 + 64 + 32  # MB: the model, one shard, a margin


# --- adapters -------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tiny_checkpoint, tmp_path) -> tuple[Path, Path]:
    """An adapter over the tiny checkpoint, and the official checkpoint it should amount to."""
    adapter, expected = tmp_path / "adapter", tmp_path / "expected"
    shutil.copytree(tiny_checkpoint, expected)
    adapter.mkdir()
    torch.manual_seed(1)
    state = load_file(expected / "model.safetensors")
    factors = {}
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        full = f"language_model.model.layers.1.{name}"
        weight = state[f"{full}.weight"].float()
        a, b = torch.randn(RANK, weight.shape[1]) * 0.2, torch.randn(weight.shape[0], RANK) * 0.2
        # As peft writes it around the language model alone.
        where = f"base_model.model.model.layers.1.{name}"
        factors[f"{where}.lora_A.weight"], factors[f"{where}.lora_B.weight"] = a, b
        state[f"{full}.weight"] = weight + 2 * b @ a
    save_file(factors, adapter / "adapter_model.safetensors")
    full_trained = {
        name: tensor.float() + 0.01 * torch.randn(tensor.shape)
        for name, tensor in state.items()
        if name.startswith(("vision_model.", "mlp1."))
    }
    save_file(full_trained, adapter / "vision.safetensors")
    state |= full_trained
    save_file({name: tensor.float() for name, tensor in state.items()},
              expected / "model.safetensors")  # fmt: skip
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj"],
        "base_model_name_or_path": str(tiny_checkpoint), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter, expected


def test_an_adapter_is_merged_with_what_was_trained_in_full(adapted, pictures) -> None:
    adapter, expected = adapted
    base = Path(
        json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    before = hashlib.sha256((base / "model.safetensors").read_bytes()).digest()
    merged = scores(adapter, pictures[:3])
    np.testing.assert_allclose(merged, scores(expected, pictures[:3]), atol=1e-3)
    assert np.abs(merged - scores(base, pictures[:3])).max() > 0.1
    assert hashlib.sha256((base / "model.safetensors").read_bytes()).digest() == before


def test_an_adapter_over_the_native_layout_is_the_same(adapted, native, pictures) -> None:
    adapter, expected = adapted
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(native)})
    )
    np.testing.assert_allclose(
        scores(adapter, pictures[:2]), scores(expected, pictures[:2]), atol=1e-3
    )


def test_adapters_that_do_not_fit_say_so(adapted) -> None:
    adapter, _ = adapted
    factors = load_file(adapter / "adapter_model.safetensors")
    strange = {name.replace("layers.1", "layers.9"): t for name, t in factors.items()}
    save_file(strange, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"2 modules that this model does not have"):
        Scorer.load(adapter)
    single = dict(list(factors.items())[:1])
    save_file(single, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="do not come in pairs"):
        Scorer.load(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        Scorer.load(adapter)


# --- running --------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_once_per_size(caplog) -> None:
    scorer = brightness_scorer()
    engine, inner = scorer.engine, scorer.engine.score_logits

    def scarce(pixel_values):
        if len(pixel_values) > 2:
            engine.batches.append(-len(pixel_values))
            raise OutOfMemoryError(f"out of memory at a batch of {len(pixel_values)}")
        return inner(pixel_values)

    engine.score_logits = scarce
    images = [np.full((4, 4, 3), 25 * (i % 10), np.uint8) for i in range(20)]
    results = scorer.score(images, batch_size=8)
    assert all(result.ok for result in results)
    assert [b for b in engine.batches if b < 0] == [-8, -4]
    assert max(engine.batches) == 2
    assert "going on with batches of 4" in caplog.text
    assert "going on with batches of 2" in caplog.text
    expected = brightness_scorer().score(images, batch_size=1)
    assert [r.score for r in results] == [r.score for r in expected]


def test_deterministic_scores_do_not_depend_on_neighbours(tiny_checkpoint, pictures) -> None:
    together = scores(tiny_checkpoint, pictures[:5], deterministic=True)
    alone = [scores(tiny_checkpoint, [p], deterministic=True)[0] for p in pictures[:5]]
    np.testing.assert_array_equal(together, alone)


def test_neighbours_change_a_score_by_less_than_a_fiftieth_in_bf16(
    tiny_checkpoint, pictures
) -> None:
    runner = GraphRunner(tiny_checkpoint, device="cpu", dtype="bf16")
    pixels = preprocess_batch(pictures[:8], runner.graph.input_size)
    from artimuse.artimuse_core.score_tokens import ORDERED_100

    together = ORDERED_100.readout(runner.score_logits(pixels)).score
    swapped = ORDERED_100.readout(runner.score_logits(pixels[::-1].copy())).score[::-1]
    np.testing.assert_allclose(together, swapped, atol=0.02)


def test_a_scoring_engine_lets_go_of_the_text_weights(tiny_checkpoint, pictures) -> None:
    lean = GraphRunner(tiny_checkpoint, device="cpu", dtype="fp32", keep_text=False)
    whole = GraphRunner(tiny_checkpoint, device="cpu", dtype="fp32")
    assert lean.graph.lm_head is None
    assert lean.graph.decoder.embed_tokens is None
    pixels = preprocess_batch(pictures[:2], whole.graph.input_size)
    np.testing.assert_array_equal(lean.score_logits(pixels), whole.score_logits(pixels))


def test_the_graph_compiles_without_a_break(tiny_checkpoint, pictures) -> None:
    graph = build_graph(tiny_checkpoint)[0].freeze(keep_text=False)
    pixels = torch.from_numpy(preprocess_batch(pictures[:2], graph.input_size))
    # Traced whole; generating code is the compiler's own affair, and takes minutes.
    traced = torch.compile(graph, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(traced(pixels), graph(pixels))


@pytest.mark.parametrize(("kind", "points", "share"), [("int8", 1.0, 0.5), ("nf4", 15.0, 0.4)])
def test_quantized_weights_are_small_and_score_nearly_the_same(
    tmp_path, pictures, kind, points, share
) -> None:
    pytest.importorskip("bitsandbytes")
    model = random_checkpoint(tmp_path / "wide", width=64)
    graph = GraphRunner(model, device="cpu", dtype="fp32", quantize=kind).graph
    plain, _ = build_graph(model)

    def size(layers: torch.nn.Module) -> int:
        return sum(p.numel() * p.element_size() for p in layers.parameters() if p.ndim == 2)

    assert size(graph.decoder.layers) < share * size(plain.decoder.layers)
    exact = scores(model, pictures[:6], dtype="fp32")
    near = scores(model, pictures[:6], dtype="fp32", quantize=kind)
    assert 0 < np.abs(near - exact).max() < points


def test_unknown_quantization_and_bundles_are_refused(tiny_checkpoint, tiny_bundle) -> None:
    with pytest.raises(UsageError, match="known: none, int8, nf4"):
        Scorer.load(tiny_checkpoint, "cpu", quantize="int3")
    with pytest.raises(UsageError, match="a bundle's weights are fixed"):
        Scorer.load(tiny_bundle, "cpu", quantize="int8")


# --- self test ------------------------------------------------------------------------------------


def test_the_selftest_passes_on_every_backend(tiny_checkpoint, tiny_bundle, native) -> None:
    for model in (tiny_checkpoint, tiny_bundle, native):
        checks = list(selftest.run(model, "cpu"))
        assert all(check.ok for check in checks), checks
        assert {"preprocessing", "token table", "prompt text", "logits"} <= {c.name for c in checks}


def test_the_selftest_says_what_differs(tiny_bundle, tmp_path, monkeypatch) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    golden = dict(np.load(bundle / GOLDEN))
    golden["score_logits"][1, 7] += 1
    np.savez(bundle / GOLDEN, **golden)
    failed = [check for check in selftest.run(bundle, "cpu") if not check.ok]
    assert [check.name for check in failed] == ["logits"]
    assert "differ by up to 1" in failed[0].detail
    monkeypatch.setattr(selftest, "SCORE_QUESTION", "Rate it.")
    failed = [check for check in selftest.run(tiny_bundle, "cpu") if not check.ok]
    assert [check.name for check in failed] == ["prompt text"]
