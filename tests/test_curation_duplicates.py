import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageFilter

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.decide import Looks, Wishes, rank_records
from artimuse.curation.duplicates import as_hashes, near_duplicates, near_references
from artimuse.curation.records import Record
from artimuse.curation.selection import Top

from .fakes import brightness_scorer

pytest.importorskip("imagehash")


def test_the_first_of_each_near_group_stays() -> None:
    assert near_duplicates(as_hashes([0, 1, -1, 0b11]), 1) == {1: 0}
    assert near_duplicates(as_hashes([0, 1, -1, 0b11]), 2) == {1: 0, 3: 0}
    assert near_duplicates(as_hashes([5, 5, 5]), 0) == {1: 0, 2: 0}
    assert near_duplicates(as_hashes([]), 3) == {}
    assert near_duplicates(as_hashes([-(2**63), 2**63 - 1]), 63) == {}
    assert near_duplicates(as_hashes([-(2**63), 2**63 - 1]), 64) == {1: 0}


def test_a_chain_of_small_steps_does_not_join_its_ends() -> None:
    chain = as_hashes([0, 0b1, 0b11, 0b111, 0b1111])
    assert near_duplicates(chain, 1) == {1: 0, 3: 2}


def test_it_agrees_with_comparing_every_pair() -> None:
    random = np.random.default_rng(0)
    flips = random.integers(0, 64, (400, 4)).astype(np.uint64)
    bases = random.integers(0, 2**64, 20, dtype=np.uint64)[random.integers(0, 20, 400)]
    hashes = bases ^ np.bitwise_xor.reduce(np.uint64(1) << flips, axis=1)
    expected: dict[int, int] = {}
    for later in range(400):
        for first in range(later):
            bits = int(hashes[first] ^ hashes[later]).bit_count()
            if first not in expected and bits <= 5:
                expected[later] = first
                break
    assert near_duplicates(hashes, 5) == expected
    assert len(expected) > 50


@pytest.mark.slow
def test_a_hundred_thousand_hashes_take_under_30_seconds_of_one_core() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:] = hashes[:50_000] ^ np.uint64(0b101)
    start = time.process_time()
    assert len(near_duplicates(hashes, 6)) == 50_000
    assert time.process_time() - start < 30


def test_the_nearest_reference_is_named() -> None:
    assert near_references(as_hashes([0b111, -1]), as_hashes([0, 0b110]), 3) == {0: 1}
    assert near_references(as_hashes([1]), as_hashes([]), 64) == {}


def record(name: str, score: float) -> Record:
    return Record(name, score, 1.0, "m", pixels=name.encode())


def test_an_image_that_other_rules_refuse_stands_in_nobodys_place() -> None:
    records = [record("a", 90), record("b", 80), record("c", 10)]
    looks = Looks({b"a": 0, b"b": 1, b"c": -1})
    kept = rank_records(records, Wishes(dedup=4), looks)
    assert [r.path for r in kept if r.selected] == ["a", "c"]
    assert kept[1].duplicate_of == "a"
    assert kept[1].reason == "nearly equals a"
    kept = rank_records(records, Wishes(dedup=4, max_score=85), looks)
    assert [r.path for r in kept if r.selected] == ["b", "c"]
    kept = rank_records(records, Wishes(dedup=4, top=Top.parse("2")), looks)
    assert [r.path for r in kept if r.selected] == ["a", "c"]
    looks = Looks(looks.hashes, [("/ref.png", -1)])
    kept = rank_records(records, Wishes(dedup=4), looks)
    assert kept[2].duplicate_of == "/ref.png"


def scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 128), Image.Resampling.BICUBIC)


def test_the_command_folds_copies_and_leaves_references_alone(tmp_path, monkeypatch) -> None:
    folder, ref = tmp_path / "new", tmp_path / "ref"
    folder.mkdir()
    ref.mkdir()
    for index in range(4):
        scene(index).save(folder / f"{index}.png")
    scene(0).resize((320, 256)).save(folder / "0-large.jpg", quality=80)
    scene(1).filter(ImageFilter.GaussianBlur(1)).save(folder / "1-soft.webp")
    scene(2).save(ref / "shown-before.png")
    before = {path: path.read_bytes() for path in ref.iterdir()}
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    arguments = ["curate", str(folder), "--dedup", "6", "--out", str(tmp_path / "run.jsonl")]
    for _ in range(2):  # the second time from the store
        result = CliRunner().invoke(cli.main, [*arguments, "--ref", str(ref)])
        assert result.exit_code == 0, result.stderr
        assert "6 scored, 3 kept" in result.stderr
        kept = {line.split()[-1][len(str(folder)) + 1] for line in result.stdout.splitlines()
                if line.startswith("*")}  # fmt: skip
        assert kept == {"0", "1", "3"}
    assert {path: path.read_bytes() for path in ref.iterdir()} == before


def test_references_without_dedup_are_wrong_usage(folder) -> None:
    result = CliRunner().invoke(cli.main, ["curate", str(folder), "--ref", str(folder)])
    assert result.exit_code == 2
    assert "--dedup" in result.stderr
