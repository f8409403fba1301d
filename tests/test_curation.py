import csv
import json
import math
import os

import pytest

from artimuse.artimuse_core.errors import UsageError
from artimuse.curation.decide import Wishes, rank_records
from artimuse.curation.metadata import GenerationInfo
from artimuse.curation.pipeline import score_files
from artimuse.curation.records import Record, write_records
from artimuse.curation.scan import scan
from artimuse.curation.selection import Top, rank

from .fakes import brightness_scorer


def test_scan_finds_images_once_and_in_order(folder) -> None:
    names = [path.name for path in scan([folder, folder / "later", folder / "image_0.png"])]
    assert names == [f"image_{i}.png" for i in range(6)]


def test_scan_without_subfolders(folder) -> None:
    assert len(scan([folder], recursive=False)) == 5


def test_scan_says_what_is_wrong(folder, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        scan([tmp_path / "none"])
    with pytest.raises(UsageError, match="no image in"):
        scan([empty])
    (empty / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no image in"):
        scan([empty])


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [
        ("10%", 50, 5), ("10%", 51, 6), ("10%", 1, 1), ("7%", 100, 7), ("0.1%", 10, 1),
        ("100%", 3, 3), ("3", 10, 3), ("20", 10, 10), (" 5 %", 100, 5), ("10%", 0, 0),
    ],
)  # fmt: skip
def test_top_counts(text: str, total: int, count: int) -> None:
    assert Top.parse(text).count(total) == count


@pytest.mark.parametrize("text", ["0", "-1", "0%", "101%", "ten", "", "%", "1.5", "nan", "inf%"])
def test_top_refuses_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="expected a count"):
        Top.parse(text)


def test_equal_scores_rank_by_path_and_failures_not_at_all() -> None:
    assert rank([50, math.nan, 70, 50], ["b", "c", "d", "a"]) == [2, 3, 0]


def test_records_hold_what_the_design_names(folder) -> None:
    (folder / "broken.png").write_bytes(b"x")
    records = score_files(brightness_scorer(), scan([folder]))
    ranked = rank_records(records, Wishes(top=Top.parse("2")))
    assert [record.rank for record in ranked] == [1, 2, 3, 4, 5, 6, None]
    assert [record.selected for record in ranked] == [True, True] + [False] * 5
    scores = [record.score for record in ranked[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert ranked[-1].path.endswith("broken.png")
    assert ranked[-1].as_dict()["score"] is None
    assert set(ranked[0].as_dict()) >= {
        "path", "score", "std", "model", "error", "rank", "selected", "width", "height", "sha256",
        "prompt", "negative_prompt", "seed", "generator",
    }  # fmt: skip
    assert ranked[0].height == 64
    assert len(ranked[0].sha256) == 64


def test_an_interrupted_run_keeps_what_was_scored(folder) -> None:
    def interrupt(record: Record) -> None:
        if record.path.endswith("image_2.png"):
            raise KeyboardInterrupt

    records = score_files(brightness_scorer(), scan([folder]), on_record=interrupt)
    assert [record.path[-5] for record in records] == ["0", "1", "2"]


MADE = GenerationInfo(prompt='a "cat"', seed=2**63)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_written_records_read_back(tmp_path, suffix: str) -> None:
    records = [
        Record("ü,\n.png", 70.5, 3.0, "m", rank=1, selected=True, info=MADE),
        Record("b.png", math.nan, math.nan, "m", error="broken"),
    ]
    path = tmp_path / "deep" / f"out{suffix}"
    write_records(path, records)
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert (rows[0]["path"], rows[0]["seed"], rows[1]["score"]) == ("ü,\n.png", str(2**63), "")
    elif suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        assert rows == [record.as_dict() for record in records]
    else:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert rows == [record.as_dict() for record in records]
    assert os.listdir(path.parent) == [path.name]


def test_unknown_formats_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl or \.csv or \.parquet"):
        write_records(tmp_path / "out.xls", [])
