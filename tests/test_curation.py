import csv
import json
import math
import os

import pytest

from artimuse.artimuse_core.errors import UsageError
from artimuse.curation.actions import check_target, copy_files
from artimuse.curation.decide import Wishes, rank_records
from artimuse.curation.metadata import read_metadata
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


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_written_records_read_back(tmp_path, suffix: str) -> None:
    records = [
        Record("ü,\n.png", 70.5, 3.0, "m", rank=1, selected=True, prompt='a "cat"', seed=2**63),
        Record("b.png", math.nan, math.nan, "m", error="broken"),
    ]
    path = tmp_path / "deep" / f"out{suffix}"
    write_records(path, records)
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert (rows[0]["path"], rows[0]["seed"], rows[1]["score"]) == ("ü,\n.png", str(2**63), "")
    else:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert rows == [record.as_dict() for record in records]
    assert os.listdir(path.parent) == [path.name]


def test_unknown_formats_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl or \.csv"):
        write_records(tmp_path / "out.xls", [])


def test_copies_never_overwrite(folder, tmp_path) -> None:
    target = tmp_path / "best"
    sources = [folder / "image_0.png", folder / "image_1.png"]
    assert copy_files(sources, target) == ([target / s.name for s in sources], [])
    assert copy_files(sources, target)[0] == [target / s.name for s in sources]  # equal: left alone
    (target / "image_0.png").write_bytes(b"mine")
    assert copy_files(sources[:1], target)[0] == [target / "image_0-2.png"]
    assert (target / "image_0.png").read_bytes() == b"mine"
    assert (target / "image_0-2.png").read_bytes() == sources[0].read_bytes()
    assert not list(target.glob(".*"))


def test_one_failed_copy_is_reported_and_the_rest_copied(folder, tmp_path) -> None:
    sources = [folder / "gone.png", folder / "image_1.png"]
    copies, failures = copy_files(sources, tmp_path / "best")
    assert copies == [tmp_path / "best" / "image_1.png"]
    assert failures == [f"{folder / 'gone.png'}: not copied: No such file or directory"]


def test_target_inside_a_scanned_folder_is_refused(folder, tmp_path) -> None:
    with pytest.raises(UsageError, match="outside"):
        check_target(folder / "best", [folder])
    check_target(tmp_path / "best", [folder])


def test_comfyui_metadata_is_followed_to_the_sampler() -> None:
    graph = {
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 42, "positive": ["9", 0], "negative": ["7", 0], "model": ["4", 0]}},
        "9": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    }  # fmt: skip
    info = read_metadata({"prompt": json.dumps(graph)})
    assert (info.prompt, info.negative_prompt, info.seed) == ("a cat", "blurry", 42)
    assert info.generator == "ComfyUI"


def test_a1111_metadata() -> None:
    text = (
        "a cat,\nsitting\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 7, Size: 1x1"
    )
    info = read_metadata({"parameters": text})
    assert (info.prompt, info.negative_prompt) == ("a cat,\nsitting", "blurry")
    assert (info.seed, info.generator) == (7, "A1111")


@pytest.mark.parametrize(
    "prompt", ["", "{", "[]", "null", '{"1": 2}', '{"1": {"inputs": []}}', "[" * 100_000, b"{}"]
)
def test_broken_metadata_is_no_metadata(prompt: object) -> None:
    assert read_metadata({"prompt": prompt}).prompt is None


def test_real_generations_say_their_prompts(shared_data) -> None:
    from PIL import Image

    found = 0
    files = [f for f in scan([shared_data / "generations"]) if f.suffix == ".png"]
    for file in files:
        with Image.open(file) as image:
            found += read_metadata(image.info).prompt is not None
    assert found >= 0.8 * sum(1 for _ in files)
