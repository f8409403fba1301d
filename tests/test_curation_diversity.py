"""--diverse: what is kept looks different, and the decision takes no more than one forward pass."""

import json
import os
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse import cli
from artimuse.artimuse_core.errors import ModelError
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.decide import Looks, Wishes, rank_records
from artimuse.curation.diversity import SHORTLIST, pick_diverse, relevances
from artimuse.curation.groups import Per
from artimuse.curation.metadata import GenerationInfo
from artimuse.curation.records import Record
from artimuse.curation.selection import Top

from .fakes import BrightnessEngine, brightness_scorer


def cloud(images: int, width: int = 16, clusters: int = 40) -> np.ndarray:
    """(N, W) unit vectors in clusters."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((clusters, width))
    vectors = centres[random.integers(0, clusters, images)]
    vectors = (vectors + 0.4 * random.standard_normal(vectors.shape)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def one_by_one(relevance, embeddings, count, novelty, groups=(), per_group=None) -> list[int]:
    """The definition, in one comparison with everything a pick."""
    nearest, picked = np.full(len(relevance), -1.0), []
    while len(picked) < count:
        worth = max(1 - novelty, 1e-6) * relevance - novelty * nearest
        worth[picked] = -np.inf
        for group in set(groups):
            if sum(groups[i] == group for i in picked) == per_group:
                worth[np.asarray(groups) == group] = -np.inf
        if worth.max() == -np.inf:
            break
        picked.append(int(worth.argmax()))
        nearest = np.maximum(nearest, embeddings @ embeddings[picked[-1]])
    return picked


@pytest.mark.parametrize("novelty", [0.0, 0.2, 0.6, 1.0])
def test_it_picks_what_comparing_all_with_all_would(novelty: float) -> None:
    images = SHORTLIST + 1500
    embeddings = cloud(images)
    relevance = relevances(np.random.default_rng(1).normal(50, 10, images))
    assert pick_diverse(relevance, embeddings, 400, novelty) == one_by_one(
        relevance, embeddings, 400, novelty
    )


@pytest.mark.parametrize("count", [25, 1000])
def test_groups_are_filled_and_not_overfilled(count: int) -> None:
    embeddings, groups = cloud(300), [i % 7 for i in range(300)]
    relevance = relevances(np.random.default_rng(1).normal(50, 10, 300))
    picked = pick_diverse(relevance, embeddings, count, 0.5, groups=groups, per_group=5)
    assert picked == one_by_one(relevance, embeddings, count, 0.5, groups, 5)
    assert len(picked) == min(count, 35)


def test_by_score_alone_it_is_the_plain_top() -> None:
    scores = np.random.default_rng(2).normal(50, 10, 5000)
    assert pick_diverse(relevances(scores), cloud(5000), 200, 0.0) == list(
        np.argsort(-scores)[:200]
    )


def test_more_novelty_covers_more_clusters_for_less_score() -> None:
    embeddings = cloud(2000, clusters=30)
    relevance = relevances(embeddings[:, 0])  # the best are all alike
    near, score = [], []
    for novelty in (0.0, 0.3, 0.9):
        picked = pick_diverse(relevance, embeddings, 20, novelty)
        near.append(np.triu(embeddings[picked] @ embeddings[picked].T, 1).max())
        score.append(relevance[picked].mean())
    assert near == sorted(near, reverse=True)
    assert score == sorted(score, reverse=True)
    assert near[2] < 0.7 < near[0]


def test_nothing_to_pick_from() -> None:
    assert pick_diverse(relevances([]), np.zeros((0, 4), np.float32), 3, 0.5) == []
    assert pick_diverse(relevances([5, 5]), np.zeros((2, 4), np.float32), 3, 0.5) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("novelty", [0.1, 0.5, 1.0])
def test_ten_thousand_of_a_hundred_thousand_take_under_a_minute(novelty: float) -> None:
    embeddings = cloud(100_000, width=128, clusters=2000)
    relevance = relevances(np.random.default_rng(1).normal(50, 13, 100_000))
    start = time.process_time()
    assert len(set(pick_diverse(relevance, embeddings, 10_000, novelty))) == 10_000
    assert time.process_time() - start < 60


def record(name: str, score: float, prompt: str = "") -> Record:
    info = GenerationInfo(prompt=prompt)
    return Record(name, score, 1.0, "m", pixels=name.encode(), info=info)


def kept(records: list[Record], looks: Looks, **wishes) -> str:
    ranked = rank_records(records, Wishes(novelty=0.5, **wishes), looks)
    return "".join(sorted(r.path for r in ranked if r.selected))


def test_it_combines_with_the_other_rules() -> None:
    east, north = np.array([1, 0], np.float16), np.array([0, 1], np.float16)
    records = [record(*row) for row in [("a", 90, "x"), ("b", 89, "x"), ("c", 60, "x"),
                                        ("d", 50, "y"), ("e", 10, "y")]]  # fmt: skip
    looks = Looks(embeddings={b"a": east, b"b": east, b"c": north, b"d": east, b"e": north})
    assert kept(records, looks, top=Top.parse("2")) == "ac"
    assert kept(records, looks, top=Top.parse("2"), min_score=70) == "ab"
    assert kept(records, looks, per=Per.parse("prompt:1")) == "ae"
    assert kept(records, looks, per=Per.parse("prompt:1"), top=Top.parse("1")) == "a"
    copies = Looks({b"a": 0, b"b": -1, b"c": 0, b"d": -2, b"e": -1}, (), looks.embeddings)
    assert kept(records, copies, top=Top.parse("2"), dedup=0) == "ab"
    ranked = rank_records(records, Wishes(novelty=0.5, top=Top.parse("2")), looks)
    assert [r.rank for r in ranked] == [1, 2, 3, 4, 5]  # ranks stay those of the scores
    assert "look more unlike" in ranked[1].reason


@pytest.fixture
def coloured(tmp_path, monkeypatch):
    """Five bright reds, one blue, one green; the engine that scored them."""
    folder = tmp_path / "images"
    folder.mkdir()
    colours = [(255, 160 + i, 160) for i in range(5)] + [(40, 40, 250), (40, 230, 40)]
    for index, colour in enumerate(colours):
        Image.new("RGB", (32, 32), colour).save(folder / f"{index}.png")
    for path in folder.iterdir():
        os.utime(path, (1.6e9, 1.6e9))
    scorer = brightness_scorer()
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: scorer)
    return folder, scorer.engine


def curate(*arguments: object):
    return CliRunner().invoke(cli.main, ["curate", *map(str, arguments)])


def test_one_pass_scores_and_embeds_and_a_second_run_computes_nothing(coloured) -> None:
    folder, engine = coloured
    arguments = (folder, "--top", "3", "--diverse", "0.5", "--json")
    for _ in range(2):
        result = curate(*arguments)
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        names = {row["path"][-5] for row in rows if row["selected"]}
        assert names == {"4", "5", "6"}
        assert engine.batches == [7]
    assert curate(folder, "--top", "3").exit_code == 0
    assert engine.batches == [7]


def test_a_score_without_an_embedding_is_computed_again_once(coloured) -> None:
    folder, engine = coloured
    plain = [curate(folder, "--top", "3", "--json").stdout for _ in range(2)]
    assert plain[0] == plain[1]
    for _ in range(2):
        assert curate(folder, "--top", "3", "--diverse", "0.5").exit_code == 0
    assert engine.batches == [7, 7]


def test_renamed_files_keep_their_embedding(coloured) -> None:
    folder, engine = coloured
    assert curate(folder, "--top", "3", "--diverse", "0.5").exit_code == 0
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"new-{path.name}"))
    result = curate(folder, "--top", "3", "--diverse", "0.5")
    assert "7 scored, 3 kept" in result.stderr
    assert "not compared" not in result.stderr
    assert engine.batches == [7]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--diverse", "1.5", "--top", "2"], "expected 0 (by score alone) to 1 (by looks alone)"),
        (["--diverse", "nan", "--top", "2"], "expected 0 (by score alone)"),
        (["--diverse", "0.5"], "--diverse needs --top or --per"),
        (["--diverse", "0.5", "--min-score", "50"], "--diverse needs --top or --per"),
        (["--diverse", "0.5", "--top", "2", "--stable"], "--diverse makes none"),
    ],
)
def test_what_makes_no_sense_is_one_line(coloured, arguments, reason) -> None:
    result = curate(coloured[0], *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert coloured[1].batches == []


def test_a_model_without_embedding_is_refused_before_scoring(coloured, monkeypatch) -> None:
    monkeypatch.setattr(BrightnessEngine, "embeds", False)
    result = curate(coloured[0], "--top", "2", "--diverse", "0.5")
    assert result.exit_code == 2
    assert "brightness gives no embedding" in result.stderr
    assert coloured[1].batches == []
    stream = brightness_scorer().stream([1], lambda _: (Image.new("RGB", (8, 8)), 0), embed=True)
    with pytest.raises(ModelError, match="no embedding"):
        next(stream)


def test_torch_and_onnx_embed_alike(tiny_bundle, tiny_checkpoint, pictures) -> None:
    def embeddings(model) -> np.ndarray:
        scorer = Scorer.load(model)
        stream = scorer.stream(pictures[:6], lambda image: (image, None), embed=True)
        return np.stack([scored.result.embedding for scored in stream])

    onnx, torch = embeddings(tiny_bundle), embeddings(tiny_checkpoint)
    np.testing.assert_allclose(np.linalg.norm(onnx, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(onnx, torch, atol=1e-4)
