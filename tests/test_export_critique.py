"""The critique without torch: a bundle's prefill and decode graphs in onnxruntime."""

import json
import shutil
from pathlib import Path

import pytest

from artimuse.artimuse_core import bundle
from artimuse.artimuse_core.attributes import ATTRIBUTES, attribute
from artimuse.artimuse_core.critic import Critic
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.export import critique, to_onnx
from artimuse.export.to_onnx import Recipe

from .conftest import python


@pytest.fixture(scope="module")
def writing(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with its critiques, weights in files of their own."""
    directory = tmp_path_factory.mktemp("writing") / "bundle"
    recipe = Recipe(critique=True, inline_bytes=1_000, shard_bytes=100_000)
    to_onnx.export_onnx(tiny_checkpoint, directory, recipe, name="writer")
    return directory


def test_critiques_of_a_bundle_are_the_references(shared_data, tmp_path) -> None:
    source = shared_data / "official-tiny"
    golden = json.loads((source / "golden.json").read_text("utf-8"))
    to_onnx.export_onnx(source / "checkpoint", tmp_path / "bundle", Recipe(critique=True))
    critic = Critic.load(tmp_path / "bundle")
    for name, expected in golden["images"].items():
        asked = [attribute(key) for key in expected["critique"]]
        answer = critic.critique(
            source / "images" / name, asked, max_new_tokens=golden["critique_max_new_tokens"]
        )
        assert answer.texts == {key: text.strip() for key, text in expected["critique"].items()}
        assert abs(answer.result.score - expected["score"]) <= golden["tolerance"]["score_abs"]


def test_a_bundle_writes_what_torch_writes(writing, tiny_checkpoint, pictures) -> None:
    ours, theirs = Critic.load(writing), Critic.load(tiny_checkpoint, "cpu", "fp32")
    assert (ours.name, ours.device) == ("writer", "cpu")
    for picture in pictures[20:23]:
        got, wanted = (
            one.critique(picture, max_new_tokens=20, attribute_scores=True)
            for one in (ours, theirs)
        )
        assert got.texts == wanted.texts
        assert got.result.score == pytest.approx(wanted.result.score, abs=1e-3)
        for name, scored in wanted.attribute_scores.items():
            assert got.attribute_scores[name].score == pytest.approx(scored.score, abs=1e-3)
    assert len(set(got.texts.values())) > 1


def test_questions_of_different_lengths_do_not_see_each_other(writing, pictures) -> None:
    critic = Critic.load(writing)
    together = critic.critique(pictures[7], max_new_tokens=8).texts
    for one in (ATTRIBUTES[0], ATTRIBUTES[6]):
        alone = critic.critique(pictures[7], [one], max_new_tokens=8).texts
        assert alone[one.name] == together[one.name]


def test_the_command_needs_no_torch(writing, pictures, tmp_path) -> None:
    image = tmp_path / "image.png"
    pictures[0].save(image)
    code = (
        "sys.modules['torch'] = sys.modules['transformers'] = None; "
        "from artimuse.cli import main; main()"
    )
    asked = ["critique", str(image), "--model", str(writing), "--json", "--max-new-tokens", "4"]
    row = json.loads(python(code, *asked))
    assert (row["model"], len(row["critique"])) == ("writer", len(ATTRIBUTES))


def test_a_changed_file_of_the_critique_is_refused(writing, tmp_path) -> None:
    copy = shutil.copytree(writing, tmp_path / "bundle")
    name = next(n for n in bundle.read(copy).writer["sha256"] if n.startswith("decode-"))
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match=f"{name} does not match"):
        Critic.load(copy)


def test_other_words_than_torchs_fail_the_export(writing, tiny_checkpoint, monkeypatch) -> None:
    ours, theirs = Critic.load(writing), Critic.load(tiny_checkpoint, "cpu", "fp32")
    critique.require_same_words(ours, theirs)
    greedy = ours.writer.greedy
    monkeypatch.setattr(ours.writer, "greedy", lambda *args: (ids ^ 1 for ids in greedy(*args)))
    with pytest.raises(ModelError, match="differs from torch's"):
        critique.require_same_words(ours, theirs)


def test_models_that_cannot_write_say_so(
    tiny_bundle, tiny_checkpoint, scoring_checkpoint, tmp_path
) -> None:
    with pytest.raises(UsageError, match="scores only; export it with --critique"):
        Critic.load(tiny_bundle)
    with pytest.raises(UsageError, match="trained to score only"):
        to_onnx.export_onnx(scoring_checkpoint, tmp_path / "a", Recipe(critique=True))
    with pytest.raises(UsageError, match="export critiques in fp32"):
        to_onnx.export_onnx(tiny_checkpoint, tmp_path / "b", Recipe("int8", critique=True))
