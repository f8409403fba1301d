"""Actions are journalled, undoable, and survive whatever ends them."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artimuse.artimuse_core.errors import ArtiMuseError, UsageError
from artimuse.curation import files
from artimuse.curation.actions import Action, Chosen, check_target, perform, plan, repair
from artimuse.curation.journal import Journal
from artimuse.curation.records import Record

from .acting import act, snapshot, take_back
from .conftest import interpreter


def with_sidecars(folder: Path) -> Path:
    (folder / "image_0.txt").write_text("a cat")
    (folder / "image_0.png.json").write_text("{}")
    (folder / "image_0.caption").write_text("cat")
    return folder / "image_0.png"


def test_copies_are_identical_and_sidecars_travel(folder, tmp_path, journals) -> None:
    image, best = with_sidecars(folder), tmp_path / "best"
    before = snapshot(folder)
    outcome = act(journals, "copy", [image], best)
    assert (outcome.done, outcome.sidecars, outcome.failures) == (1, 3, [])
    copies = snapshot(best)
    assert set(copies) == {
        "best/image_0.png", "best/image_0.txt", "best/image_0.png.json", "best/image_0.caption"
    }  # fmt: skip
    assert all(before[f"generations/{name[5:]}"] == data for name, data in copies.items())
    assert (best / image.name).stat().st_mtime_ns == image.stat().st_mtime_ns
    assert snapshot(folder) == before
    assert take_back(journals).done == 1
    assert not best.exists()
    assert snapshot(folder) == before


def test_copies_never_overwrite_and_equal_ones_are_left_alone(folder, tmp_path, journals) -> None:
    best, image = tmp_path / "best", with_sidecars(folder)
    act(journals, "copy", [image], best)
    assert plan([Chosen(image)], "copy", best) == []
    (best / "image_0.png").write_bytes(b"mine")
    act(journals, "copy", [image], best, run="second")
    assert (best / "image_0.png").read_bytes() == b"mine"
    assert (best / "image_0-2.png").read_bytes() == image.read_bytes()
    assert (best / "image_0-2.txt").read_text() == "a cat"
    assert (best / "image_0-2.png.json").exists()
    assert take_back(journals).failures == [
        f"{best / 'image_0.png'}: not undone: the copy was changed since; remove it by hand"
    ]
    assert (best / "image_0.png").read_bytes() == b"mine"


def test_equal_names_of_different_folders_do_not_clash(folder, tmp_path, journals) -> None:
    twin = folder / "later" / "image_0.png"
    shutil.copy(folder / "image_1.png", twin)
    act(journals, "move", [folder / "image_0.png", twin], tmp_path / "best")
    assert {p.name for p in (tmp_path / "best").iterdir()} == {"image_0.png", "image_0-2.png"}
    take_back(journals)
    assert twin.exists()
    assert (folder / "image_0.png").exists()


@pytest.mark.parametrize("target", ["same", "other"])
def test_moves_come_back(folder, tmp_path, journals, target: str) -> None:
    image = with_sidecars(folder)
    best = tmp_path / "best"
    if target == "other":
        best = other_file_system(tmp_path) / f"artimuse-{os.getpid()}-best"
    try:
        before = snapshot(folder)
        act(journals, "move", [image, folder / "later" / "image_5.png"], best)
        assert not image.exists()
        assert {p.name for p in best.iterdir()} >= {"image_0.png", "image_0.txt", "image_5.png"}
        take_back(journals)
        assert snapshot(folder) == before
        assert not best.exists()
    finally:
        shutil.rmtree(best, ignore_errors=True)


def other_file_system(tmp_path: Path) -> Path:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    return other


def test_a_shared_sidecar_stays_with_the_image_that_stays(folder, tmp_path, journals) -> None:
    image = with_sidecars(folder)
    Image.new("RGB", (4, 4)).save(folder / "image_0.jpg")
    act(journals, "move", [image], tmp_path / "best")
    assert (folder / "image_0.txt").exists()
    assert (tmp_path / "best" / "image_0.txt").exists()
    assert not (folder / "image_0.png.json").exists()


def test_undo_does_not_overwrite_what_took_the_place_since(folder, tmp_path, journals) -> None:
    image = folder / "image_0.png"
    act(journals, "move", [image], tmp_path / "best")
    image.write_bytes(b"new")
    assert len(take_back(journals).failures) == 1
    assert image.read_bytes() == b"new"
    assert (tmp_path / "best" / "image_0.png").exists()


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_links(folder, tmp_path, journals, kind: str) -> None:
    image = folder / "image_0.png"
    act(journals, kind, [image], tmp_path / "best")
    link = tmp_path / "best" / "image_0.png"
    assert link.samefile(image)
    assert link.is_symlink() is (kind == "symlink")
    take_back(journals)
    assert image.exists()
    assert not os.path.lexists(link)


def test_buckets_become_folders(folder, tmp_path, journals) -> None:
    act(journals, "copy", [folder / "image_0.png"], tmp_path / "best", folder="great")
    assert (tmp_path / "best" / "great" / "image_0.png").exists()


def test_trash_and_back(folder, tmp_path, journals, monkeypatch) -> None:
    pytest.importorskip("send2trash")
    if sys.platform in ("win32", "darwin"):
        pytest.skip("restored by hand there")
    from send2trash.plat_other import HOMETRASH  # read once, when it is imported

    home = Path(os.fsdecode(HOMETRASH)).parent
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    image = with_sidecars(folder)
    before = snapshot(folder)
    outcome = act(journals, "trash", [image])
    try:
        assert (outcome.done, outcome.failures) == (1, [])
        assert not image.exists()
        assert not (folder / "image_0.txt").exists()
    finally:
        back = take_back(journals)
    assert back.failures == []
    assert snapshot(folder) == before


def test_a_link_is_not_moved_away_from_what_it_points_to(folder, tmp_path, journals) -> None:
    link = folder / "link.png"
    link.symlink_to("image_0.png")
    outcome = act(journals, "move", [link], tmp_path / "best")
    assert "symbolic link" in outcome.failures[0]
    assert link.is_symlink()


def test_one_failed_file_is_reported_and_the_rest_goes_on(folder, tmp_path, journals) -> None:
    gone, fine = folder / "gone.png", folder / "image_1.png"
    for kind in ("copy", "move"):
        outcome = act(journals, kind, [gone, fine], tmp_path / kind, run=kind)
        assert len(outcome.failures) == 1
        assert outcome.failures[0].startswith(f"{gone}: not ")
        assert [p.name for p in (tmp_path / kind).iterdir()] == ["image_1.png"]
        take_back(journals, kind)


def test_target_inside_a_scanned_folder_is_refused(folder, tmp_path) -> None:
    with pytest.raises(UsageError, match="outside"):
        check_target("--copy-to", folder / "best", [folder])
    check_target("--copy-to", tmp_path / "best", [folder])


def test_the_rest_never_holds_images_that_could_not_be_scored() -> None:
    ranked = [
        Record("a", 9, 1, "m", selected=True),
        Record("b", 8, 1, "m"),
        Record("c", float("nan"), float("nan"), "m", error="broken"),
    ]
    assert [c.path.name for c in Action("trash", rest=True).chosen(ranked)] == ["b"]
    assert [c.path.name for c in Action("trash").chosen(ranked)] == ["a"]


def test_nothing_is_touched_where_the_journal_cannot_be_written(folder, tmp_path) -> None:
    (tmp_path / "blocked").write_text("a file, not a folder")
    steps = plan([Chosen(folder / "image_0.png")], "move", tmp_path / "best")
    with pytest.raises(ArtiMuseError, match="nothing was touched"):
        Journal.create(tmp_path / "blocked", "run", steps)
    assert (folder / "image_0.png").exists()
    assert not (tmp_path / "best").exists()


def test_a_plan_that_was_cut_off_touches_nothing(folder, tmp_path, journals) -> None:
    steps = plan([Chosen(folder / "image_0.png")], "move", tmp_path / "best")
    Journal.create(journals, "run", steps).close()
    path = journals / "run.jsonl"
    path.write_text(path.read_text()[:-30])
    assert "before it touched any file" in repair(journals)[0]
    assert repair(journals) == []
    assert (folder / "image_0.png").exists()


def test_a_run_that_goes_on_is_not_repaired(folder, tmp_path, journals) -> None:
    steps = plan([Chosen(folder / "image_0.png")], "move", tmp_path / "best")
    running = Journal.create(journals, "run", steps)
    assert repair(journals) == []
    running.close()
    assert "interrupted" in repair(journals)[0]


def test_a_move_killed_between_copy_and_removal_is_completed(folder, tmp_path, journals) -> None:
    image, best = folder / "image_0.png", tmp_path / "best"
    Journal.create(journals, "run", plan([Chosen(image)], "move", best)).close()
    best.mkdir()
    shutil.copy2(image, best / "image_0.png")
    content = image.read_bytes()
    assert "1 of 1 images are moved" in repair(journals)[0]
    assert not image.exists()
    take_back(journals)
    assert image.read_bytes() == content


def test_repair_takes_nobody_elses_file_for_ours(folder, tmp_path, journals) -> None:
    best = tmp_path / "best"
    names = ["image_0.png", "image_1.png"]
    for kind, name in zip(("copy", "move"), names, strict=True):
        Journal.create(journals, kind, plan([Chosen(folder / name)], kind, best)).close()
    best.mkdir()
    for name in names:
        (best / name).write_bytes(b"somebody else's")
    assert all("0 of 1" in line for line in repair(journals))
    assert take_back(journals, "copy").done == take_back(journals, "move").done == 0
    assert all((best / name).read_bytes() == b"somebody else's" for name in names)
    assert all((folder / name).exists() for name in names)


ZYGOTE = """
import os
from pathlib import Path
from artimuse.curation import actions
from artimuse.curation.journal import Journal, find

def work(what, journals, run, source, target):
    if what == "undo":
        journal = find(Path(journals), run)
        assert journal.open()
        print(os.getpid(), flush=True)
        actions.undo(journal)
    else:
        images = sorted(Path(source).glob("*.png"))
        steps = actions.plan([actions.Chosen(image) for image in images], what, Path(target))
        print(os.getpid(), flush=True)
        actions.perform(Journal.create(Path(journals), run, steps))

for line in sys.stdin:
    child = os.fork()
    if not child:
        work(*line.split())
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""Forks a child per line, so that each kill costs no start of an interpreter."""


class Zygote:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            interpreter(ZYGOTE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def kill_after(self, seconds: float, *arguments: object) -> None:
        """Start an action and kill -9 it so long after it began to act."""
        self.process.stdin.write(" ".join(map(str, arguments)) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert self.process.stdout.readline() == "ended\n"


@pytest.fixture(scope="module")
def zygote():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    zygote = Zygote()
    yield zygote
    zygote.process.communicate()


def contents(*roots: Path) -> list[bytes]:
    return sorted(data for data in snapshot(*(r for r in roots if r.exists())).values())


@pytest.mark.parametrize(("kind", "other"), [("move", False), ("move", True), ("copy", False)])
def test_kill_9_at_random_moments_loses_and_doubles_nothing(
    zygote, tmp_path, kind: str, other: bool
) -> None:
    source, journals = tmp_path / "source", tmp_path / "journals"
    target = tmp_path / "target"
    if other:
        target = other_file_system(tmp_path) / f"artimuse-{os.getpid()}-kill"
    source.mkdir()
    random_bytes = np.random.default_rng(0).bytes
    for index in range(150):
        (source / f"{index:03}.png").write_bytes(random_bytes(20_000))
        (source / f"{index:03}.txt").write_text(str(index))
    original, before = contents(source), snapshot(source)
    chance, interrupted, attempts = random.Random(kind + str(other)), 0, 0
    try:
        # Some kills come too late or too early to prove anything: go on until enough did not.
        while attempts < 17 or (interrupted < 5 and attempts < 400):
            attempt, attempts = attempts, attempts + 1
            what = "undo" if attempt % 4 == 3 else kind
            run = f"run{attempt - 1 if what == 'undo' else attempt:02}"
            zygote.kill_after(chance.uniform(0, 0.03), what, journals, run, source, target)
            interrupted += len(repair(journals))
            assert repair(journals) == []
            leftovers = [p for p in target.rglob("*") if files.PARTIAL in p.name]
            assert leftovers == []
            if kind == "move":
                assert contents(source, target) == original
            else:
                assert snapshot(source) == before
                assert set(contents(target)) <= set(original)
        for attempt in reversed(range(attempts)):
            if (journals / f"run{attempt:02}.jsonl").exists():
                assert take_back(journals, f"run{attempt:02}").failures == []
        assert snapshot(source) == before
        assert contents(target) == []
        assert interrupted >= 5
    finally:
        shutil.rmtree(target, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where we may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        pytest.skip("only root can mount")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["copy", "move"])
def test_a_full_disk_fails_single_files(tmp_path, journals, small_disk, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index in range(6):
        (source / f"{index}.png").write_bytes(os.urandom(300_000))
    before = contents(source)
    images = sorted(source.iterdir())
    outcome = act(journals, kind, images, small_disk / "best")
    assert outcome.done == 3
    assert len(outcome.failures) == 3
    assert all("No space left" in line for line in outcome.failures)
    everything = contents(source, small_disk)
    assert (everything if kind == "move" else contents(source)) == before
    assert not any(files.PARTIAL in path.name for path in small_disk.rglob("*"))
    take_back(journals)
    assert contents(source) == before


def test_a_full_disk_under_the_journal_stops_the_run(tmp_path, folder, small_disk) -> None:
    for index in range(400):
        (folder / f"more{index}.png").write_bytes(str(index).encode())
    steps = plan([Chosen(p) for p in sorted(folder.glob("*.png"))], "move", tmp_path / "best")
    journal = Journal.create(small_disk / "journals", "run", steps)
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(b"x" * 2_000_000)
    before = contents(folder)
    # The journal's last block still holds some lines; these must not fit there.
    with pytest.raises(ArtiMuseError, match="none is lost"):
        perform(journal)
    journal.close()
    assert contents(folder, *[tmp_path / "best"] * (tmp_path / "best").exists()) == before
    (small_disk / "filler").unlink()
    repair(small_disk / "journals")
    assert take_back(small_disk / "journals").failures == []
    assert contents(folder) == before


def test_a_read_only_target_fails_files_and_loses_none(tmp_path, folder, small_disk, journals):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = snapshot(folder)
    outcome = act(journals, "move", sorted(folder.glob("*.png")), small_disk)
    assert outcome.done == 0
    assert all("Read-only file system" in line for line in outcome.failures)
    assert snapshot(folder) == before


def test_an_undo_killed_between_copying_back_and_removing_is_completed(tmp_path, journals) -> None:
    source, target = tmp_path / "a.png", tmp_path / "elsewhere" / "a.png"
    source.write_bytes(b"image")
    journal = Journal.create(journals, "run", plan([Chosen(source)], "move", target.parent))
    perform(journal)
    journal.write({"undoing": 0})
    journal.close()
    source.write_bytes(target.read_bytes())  # as a move across file systems leaves it
    (line,) = repair(journals)
    assert "the rest is undone now" in line
    assert "could not" not in line
    assert source.read_bytes() == b"image"
    assert not target.exists()
    assert repair(journals) == []
