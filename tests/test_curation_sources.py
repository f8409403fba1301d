"""Images and records on file systems that fsspec reaches; nothing there is ever touched."""

import json
import os
import zipfile

import pytest
from click.testing import CliRunner

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.sources import name_of

from .fakes import brightness_scorer

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(folder):
    """``folder`` in fsspec's file system in memory, with its URL."""
    fs = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe(f"/bucket/{path.relative_to(folder).as_posix()}", path.read_bytes())
    for path, told in fs.store.items():
        told.modified = told.modified.replace(year=2020)
        assert fs.modified(path).year == 2020
    yield "memory://bucket"
    fs.rm("/", recursive=True)


@pytest.fixture
def engine(monkeypatch):
    scorer = brightness_scorer()
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: scorer)
    return scorer.engine


def curate(*arguments: object):
    return CliRunner().invoke(cli.main, ["curate", *map(str, arguments)])


def rows(*arguments: object) -> list[dict]:
    result = curate(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def told(row: dict) -> tuple:
    return name_of(row["path"]), row["score"], row["sha256"], row["rank"]


def test_a_bucket_gives_the_records_of_the_folder(bucket, folder, engine) -> None:
    here, there = rows(folder, "--no-cache"), rows(bucket, "--no-cache")
    assert [told(row) for row in there] == [told(row) for row in here]
    assert all(row["path"].startswith("memory:///bucket/") for row in there)
    assert len(rows(bucket, "--no-recursive")) == 5
    assert len(rows(bucket, "--where", "folder == 'memory:///bucket/later'")) == 6
    kept = rows(bucket, "--per", "folder")
    assert [row["path"][-11:-4] for row in kept if row["selected"]].count("image_5") == 1


def test_unchanged_remote_files_are_not_read_again(bucket, engine, monkeypatch) -> None:
    first = rows(bucket)
    fs = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(fs, "cat_file", lambda *args, **options: pytest.fail("read again"))
    assert [told(row) for row in rows(bucket)] == [told(row) for row in first]
    assert sum(engine.batches) == 6


def test_a_zip_is_a_folder_and_its_pixels_are_known_again(folder, tmp_path, engine) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("image_*.png")):
            file.write(path, path.relative_to(folder))
    url = f"zip://::file://{archive}"
    here, there = rows(folder), rows(url)
    assert [told(row) for row in there] == [told(row) for row in here]
    assert there[0]["path"].startswith("zip://")
    assert there[0]["path"].endswith(f"::file://{archive}")
    assert sum(engine.batches) == 6
    assert len(rows(f"zip://later::file://{archive}")) == 1


def test_file_urls_are_paths(folder, engine) -> None:
    assert rows(folder.as_uri())[0]["path"] == rows(folder)[0]["path"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_records_are_written_to_a_url(bucket, engine, suffix: str) -> None:
    result = curate(bucket, "--top", "2", "--out", f"memory://results/deep/run.{suffix}")
    assert result.exit_code == 0, result.stderr
    written = fsspec.filesystem("memory").cat_file(f"/results/deep/run.{suffix}")
    if suffix == "jsonl":
        assert [json.loads(line)["rank"] for line in written.splitlines()] == [1, 2, 3, 4, 5, 6]
    elif suffix == "csv":
        assert len(written.splitlines()) == 7
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        with fsspec.open(f"memory://results/deep/run.{suffix}", "rb") as file:
            assert parquet.read_table(file).num_rows == 6


def test_a_file_that_cannot_be_fetched_is_one_line(bucket, engine, monkeypatch) -> None:
    fs = type(fsspec.filesystem("memory"))
    whole = fs.cat_file

    def flaky(self, path, *args, **options):
        if path.endswith("image_2.png"):
            raise RuntimeError("the bucket\nhas a bad day")
        return whole(self, path, *args, **options)

    monkeypatch.setattr(fs, "cat_file", flaky)
    result = curate(bucket)
    assert result.exit_code == 1
    line = "failed: memory:///bucket/image_2.png: cannot read memory:///bucket/image_2.png: "
    assert line + "the bucket has a bad day\n" in result.stderr
    assert "5 scored" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{bucket}", "--top", "2", "--copy-to", "best"], "--copy-to touches files"),
        (["{bucket}", "--top", "2", "--trash"], "--trash touches files"),
        (["{bucket}", "--write-xmp"], "--write-xmp touches files"),
        (["{bucket}", "--watch"], "expected a folder on this machine"),
        (["memory://nothing-here"], "does not exist or is empty"),
        (["nope://bucket"], "Protocol not known: nope"),
        (["{bucket}", "--out", "memory://x/run.txt"], "expected a name ending in .jsonl"),
    ],
)
def test_what_cannot_be_done_remotely_is_one_line(bucket, engine, arguments, reason) -> None:
    result = curate(*(part.format(bucket=bucket) for part in arguments))
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert engine.batches == []
    assert not os.path.exists("best")  # noqa: PTH110


def test_a_target_that_cannot_be_written_loses_no_records(bucket, engine, monkeypatch) -> None:
    fs = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(fs, "put_file", lambda *args, **options: (_ for _ in ()).throw(OSError(13)))
    result = curate(bucket, "--out", "memory://results/run.csv")
    assert result.exit_code == 1
    assert "cannot write memory://results/run.csv" in result.stderr
    assert result.stdout.count("image_") == 6
