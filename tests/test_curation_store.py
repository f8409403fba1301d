"""What was scored is not scored again, whatever its name; what differs never mixes."""

import json
import os
import shutil
import sqlite3
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.fingerprint import model_fingerprint
from artimuse.curation.pipeline import Memory, pixel_hash, score_files
from artimuse.curation.places import cache_folder
from artimuse.curation.records import Record
from artimuse.curation.scan import scan
from artimuse.curation.store import FILE, Store, Wanted

from .conftest import interpreter
from .fakes import brightness_scorer


@pytest.fixture
def old_folder(folder) -> Path:
    """Files that were last changed long enough ago to be trusted by their time."""
    for path in folder.rglob("*"):
        os.utime(path, (1.6e9, 1.6e9))
    return folder


@pytest.fixture
def store(tmp_path):
    store = Store.open_or_memory(tmp_path / "cache")
    yield store
    store.close()


def score(store: Store, folder: Path, model: str = "m", wanted: Wanted | None = None):
    """Records, and how many images the engine scored."""
    scorer = brightness_scorer()
    memory = Memory(store, model, wanted or Wanted())
    records = score_files(scorer, scan([folder]), memory=memory)
    return records, sum(scorer.engine.batches)


def test_a_second_run_scores_nothing_and_says_the_same(old_folder, store) -> None:
    first, scored = score(store, old_folder)
    assert scored == 6
    second, again = score(store, old_folder)
    assert again == 0
    assert [r.as_dict() for r in second] == [r.as_dict() for r in first]
    assert [r.probs for r in second] == [r.probs for r in first]


def test_an_unchanged_file_is_not_even_read(old_folder, store, monkeypatch) -> None:
    score(store, old_folder)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    assert score(store, old_folder)[1] == 0


def test_renamed_moved_and_retagged_files_keep_their_score(old_folder, store) -> None:
    before = {r.path: r.score for r in score(store, old_folder)[0]}
    (old_folder / "image_0.png").rename(old_folder / "renamed.png")
    tagged, text = old_folder / "image_1.png", PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nSteps: 1, Sampler: Euler, Seed: 5")
    with Image.open(tagged) as image:
        image.save(tagged, pnginfo=text)
    records, scored = score(store, old_folder)
    assert scored == 0
    after = {r.path: r for r in records}
    assert after[str(old_folder / "renamed.png")].score == before[str(old_folder / "image_0.png")]
    assert after[str(tagged)].score == before[str(tagged)]
    assert after[str(tagged)].info.prompt == "a cat"


def test_other_pixels_under_the_same_name_size_and_time_are_noticed(folder, store) -> None:
    path = folder / "image_0.png"
    Image.new("RGB", (8, 8), (10, 10, 10)).save(folder / "image_0.png", compress_level=0)
    status = path.stat()
    dark = {r.path: r.score for r in score(store, folder)[0]}[str(path)]
    Image.new("RGB", (8, 8), (250, 250, 250)).save(path, compress_level=0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    # The file was so fresh when it was read that its time proves nothing.
    assert {r.path: r.score for r in score(store, folder)[0]}[str(path)] > dark + 50


def test_models_never_share_scores(old_folder, store) -> None:
    score(store, old_folder, "one")
    assert score(store, old_folder, "two")[1] == 6
    assert score(store, old_folder, "one")[1] == 0


def test_a_later_wish_decodes_but_does_not_score(old_folder, store) -> None:
    score(store, old_folder)
    records, scored = score(store, old_folder, wanted=Wanted(thumbnail=True))
    assert scored == 0
    thumbnail = store.visuals(records[0].pixels).thumbnail
    assert thumbnail is not None
    assert thumbnail[8:12] == b"WEBP"


def test_pixel_hash_sees_pixels_and_shape_only() -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    tagged = image.copy()
    tagged.info["parameters"] = "x"
    assert pixel_hash(image) == pixel_hash(tagged)
    turned = Image.fromarray(np.asarray(image).reshape(4, 2, 3))
    assert pixel_hash(image) != pixel_hash(turned)


def test_fingerprints_tell_models_apart(tiny_bundle, tmp_path, store) -> None:
    scorer = Scorer.load(tiny_bundle, "cpu")
    first = model_fingerprint(scorer, tiny_bundle, store)
    assert model_fingerprint(Scorer.load(tiny_bundle, "cpu"), tiny_bundle, store) == first
    for name, value in (("name", "other"), ("input_size", 64)):
        changed = Scorer.load(tiny_bundle, "cpu")
        setattr(changed, name, value)
        assert model_fingerprint(changed, tiny_bundle, store) != first
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["graph_sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert model_fingerprint(scorer, copy, store) != first


def test_a_checkpoint_is_known_by_its_weights(tiny_checkpoint, tmp_path, store) -> None:
    scorer = brightness_scorer()
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    first = model_fingerprint(scorer, copy, store)
    assert model_fingerprint(scorer, copy, store) == first
    assert model_fingerprint(scorer, copy, store, dtype="bf16") != first
    weights = next(copy.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_fingerprint(scorer, copy, store) != first


def test_a_broken_store_is_put_aside_and_said(tmp_path, caplog) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 1000)
    store = Store.open_or_memory(tmp_path)
    assert store.path == tmp_path / FILE
    assert "is broken" in caplog.text
    assert len(list(tmp_path.glob("*.broken-*"))) == 1
    store.close()


def test_a_run_goes_on_without_a_store_and_says_so(folder, tmp_path, caplog) -> None:
    (tmp_path / "blocked").write_text("a file")
    store = Store.open_or_memory(tmp_path / "blocked")
    assert store.path is None
    assert "going on without it" in caplog.text
    assert len(score(store, folder)[0]) == 6
    store.close()


def test_a_store_that_fails_midway_ends_no_run(old_folder, store, caplog) -> None:
    store._db.execute("DROP TABLE files")
    records, scored = score(store, old_folder)
    assert (len(records), scored) == (6, 6)
    assert caplog.text.count("cannot be used any more") == 1


def test_names_that_are_no_text_are_kept(folder, store) -> None:
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n\xfe.png"))
    try:
        shutil.copy(folder / "image_0.png", strange)
    except OSError:
        pytest.skip("this file system wants text")
    os.utime(strange, (1.6e9, 1.6e9))
    score(store, folder)
    records, _ = score(store, folder)
    assert str(strange) in [r.path for r in records]
    store.keep_run("r", "m", "", records)
    assert str(strange) in store.outcomes("r")


WORKER = """
from pathlib import Path
from artimuse.curation.records import Facts
from artimuse.curation.metadata import GenerationInfo
from artimuse.curation.store import Known, Stamp, Store, Visuals
store = Store(Path(sys.argv[1]))
for index in range(500):
    facts = Facts(1, 1, "0", GenerationInfo(), bytes([index % 256, index // 256]))
    store.keep(Path(f"/x/{sys.argv[2]}-{index}"), Stamp(1, 1), facts, Visuals(), "m",
               Known(float(index), 1.0, None), read_ns=10**19)
store.close()
"""


def test_two_processes_share_a_store(tmp_path) -> None:
    path = tmp_path / FILE
    workers = [subprocess.Popen(interpreter(WORKER, path, name)) for name in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    store = Store(path)
    counts = [store._one(f"SELECT count(*) FROM {t}", ())[0] for t in ("files", "scores")]
    assert counts == [1000, 500]
    assert store._one("PRAGMA integrity_check", ()) == ("ok",)
    store.close()


def test_a_store_waits_for_who_is_just_opening_it(tmp_path) -> None:
    path = tmp_path / FILE
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # about to write: SQLite does not wait for this one
    leaving = threading.Timer(0.3, other.rollback)
    leaving.start()
    store = Store(path)
    leaving.join()
    assert store._one("PRAGMA journal_mode", ()) == ("wal",)
    store.close()
    other.close()


@pytest.fixture
def command(monkeypatch):
    scorer = brightness_scorer()
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: scorer)

    def run(*arguments: object):
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["artimuse", "curate", *words])
        return CliRunner().invoke(cli.main, ["curate", *words])

    run.engine = scorer.engine
    return run


def test_the_command_remembers_unless_told_not_to(old_folder, command) -> None:
    first = command(old_folder, "--json").stdout
    command.engine.batches.clear()
    assert command(old_folder, "--json").stdout == first
    assert command.engine.batches == []
    assert command(old_folder, "--json", "--no-cache").stdout == first
    assert sum(command.engine.batches) == 6


def runs() -> list[str]:
    store = Store(cache_folder() / FILE)
    names = [name for name, _, _ in store.runs()]
    store.close()
    return names


def test_explain_and_diff(old_folder, command) -> None:
    command(old_folder, "--top", "1")
    command(old_folder, "--top", "3")
    first, second = runs()
    result = command("--diff", first, second)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line[0] for line in lines[:-1]] == ["+", "+"]
    assert lines[-1].endswith("3 kept; 2 newly kept")
    assert command("--diff", "last", second).stdout.endswith("no difference\n")
    path = lines[1][2:]
    told = command("--explain", path).stdout
    assert told.startswith(path)
    assert "not kept: below the top 1" in told
    assert "rank 3" in told
    assert told.rstrip().endswith("kept")


def test_diff_does_not_compare_scores_of_different_models(store) -> None:
    from artimuse.curation.history import diff

    for run, model, value in (("1", "a", 5.0), ("2", "b", 90.0)):
        store.keep_run(run, model, "", [Record("/x.png", value, 1, model, rank=1, selected=True)])
    lines = list(diff(store, "1", "2"))
    assert "not compared" in lines[0]
    assert "score changed" not in lines[-1]


@pytest.mark.parametrize("arguments", [["--explain", "none.png"], ["--diff", "a", "b"]])
def test_nothing_to_tell_is_wrong_usage(command, arguments: list[str]) -> None:
    assert command(*arguments).exit_code == 2
