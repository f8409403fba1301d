import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from artimuse import Scorer
from artimuse.artimuse_core import checkpoint
from artimuse.artimuse_core.errors import ModelError
from artimuse.artimuse_core.preprocess import preprocess_batch
from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.artimuse_core.torch_graph import build_graph


@pytest.fixture
def broken(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint to damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def test_scores_and_logits_are_the_references(shared_data) -> None:
    from PIL import Image

    directory = shared_data / "official-tiny"
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    graph, _ = build_graph(directory / "checkpoint")
    scorer = Scorer.load(directory / "checkpoint", "cpu")
    tolerance = golden["tolerance"]
    for frozen in (False, True):
        if frozen:
            graph.freeze()
        for name, expected in golden["images"].items():
            with Image.open(directory / "images" / name) as image:
                pixels = preprocess_batch([image.convert("RGB")], golden["image_size"])
            with torch.no_grad():
                logits = graph(torch.from_numpy(pixels)).numpy()[0]
            error = np.abs(logits - expected["score_logits"]).max()
            assert error <= tolerance["score_logits_abs"]
            (result,) = scorer.score(directory / "images" / name)
            assert abs(result.score - expected["score"]) <= tolerance["score_abs"]


def test_native_model_and_graph_agree(tiny_checkpoint, pictures) -> None:
    """The written-out forward against transformers' own, prompt and full vocabulary included."""
    graph, prompt = build_graph(tiny_checkpoint)
    tokenizer = checkpoint.load_tokenizer(tiny_checkpoint)
    model = checkpoint.load_model(tiny_checkpoint)
    ids = tokenizer(prompt.text(graph.image_tokens), add_special_tokens=False).input_ids
    pixels = torch.from_numpy(preprocess_batch(pictures[:3], graph.input_size))
    with torch.no_grad():
        native = model(input_ids=torch.tensor([ids] * 3), pixel_values=pixels).logits[:, -1]
        wanted = native[:, list(ORDERED_100.ids(tokenizer.get_vocab()))]
        torch.testing.assert_close(graph(pixels), wanted, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(graph.freeze()(pixels), wanted, atol=2e-5, rtol=1e-5)


def test_gradients_reach_every_weight_through_the_graph(tiny_checkpoint, pictures) -> None:
    graph, _ = build_graph(tiny_checkpoint)
    pixels = torch.from_numpy(preprocess_batch(pictures[:2], graph.input_size))
    graph(pixels).square().sum().backward()
    # The tower's final norm is no part of the features (`use_mean_pooling`).
    assert [name for name, p in graph.named_parameters() if p.grad is None] == []


def test_official_names_round_trip(tiny_checkpoint) -> None:
    official = load_file(tiny_checkpoint / "model.safetensors")
    again = checkpoint.to_official(checkpoint.to_native(official))
    assert again.keys() == official.keys()
    assert all(torch.equal(again[name], official[name]) for name in official)


def test_the_8b_checkpoint_maps_one_to_one(shared_data) -> None:
    from transformers import InternVLForConditionalGeneration

    directory = shared_data / "internvl3-8b"
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    with torch.device("meta"):
        config = checkpoint.native_config(checkpoint.read_config(directory), 151667)
        model = InternVLForConditionalGeneration(config)
        official = {name: torch.empty(3) for name in index["weight_map"]}
    assert len(official) == 685
    assert checkpoint.to_native(official).keys() == model.state_dict().keys()


def test_missing_and_unexpected_keys_are_summarised(broken) -> None:
    state = load_file(broken / "model.safetensors")
    state["stranger"] = state.pop("mlp1.0.weight")
    save_file(state, broken / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"1 missing \(.*layer_norm.*\), 1 unexpected \(stranger\)"
    ):
        Scorer.load(broken)


def test_weights_of_another_size_are_refused(broken) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["llm_config"]["intermediate_size"] = 96
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="tensors of another shape"):
        Scorer.load(broken)


def test_a_pickle_is_refused_with_the_reason(broken) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        Scorer.load(broken)


def test_truncated_weights_are_refused(broken) -> None:
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"cannot read .*model\.safetensors"):
        Scorer.load(broken)


def test_a_foreign_config_is_refused(broken) -> None:
    (broken / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="llm_config"):
        Scorer.load(broken)


def test_what_the_graph_cannot_do_it_refuses(broken) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["ps_version"] = "v1"
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="ps_version v2"):
        Scorer.load(broken)
