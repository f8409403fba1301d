import threading
import time

import pytest
from click.testing import CliRunner

from artimuse import cli
from artimuse.artimuse_core.errors import UsageError
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation import watch
from artimuse.curation.watch import Watcher

from .fakes import brightness_scorer

pytest.importorskip("watchfiles")


def test_half_written_files_wait(folder, tmp_path) -> None:
    data = (folder / "image_0.png").read_bytes()
    target = tmp_path / "arriving"
    target.mkdir()
    watcher, wrote = Watcher([target]), []

    def write() -> None:
        time.sleep(0.5)
        with (target / "slow.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                time.sleep(0.25)
        wrote.append(time.monotonic())
        (target / "notes.txt").write_text("no image")
        (target / ".hidden.png").write_bytes(data)

    thread = threading.Thread(target=write)
    thread.start()
    batches = iter(watcher)
    assert next(batches) == [target / "slow.png"]
    assert wrote
    assert time.monotonic() - wrote[0] >= watch.SETTLED_S / 2
    watcher.stop.set()
    assert list(batches) == []
    thread.join()


def test_what_came_before_anybody_watched_is_found(folder) -> None:
    watcher = Watcher([folder])
    watcher.known = {str(folder / f"image_{i}.png") for i in range(5)}
    assert next(iter(watcher)) == [folder / "later" / "image_5.png"]
    watcher.stop.set()


def test_patience_ends(folder, monkeypatch) -> None:
    watcher, path = Watcher([folder]), folder / "image_0.png"
    assert watcher.wait_for_more(path)
    monkeypatch.setattr(watch, "PATIENCE_S", -1)
    assert not watcher.wait_for_more(path)
    assert not watcher.wait_for_more(folder / "gone.png")


def test_only_folders_can_be_watched(folder) -> None:
    with pytest.raises(UsageError, match="expected a folder"):
        Watcher([folder / "image_0.png"])


def test_the_command_ranks_what_arrived_until_it_is_stopped(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    empty = tmp_path / "empty"
    empty.mkdir()

    def arrive(self):
        whole, half = empty / "whole.png", empty / "half.png"
        data = (folder / "image_0.png").read_bytes()
        whole.write_bytes(data)
        half.write_bytes(data[:-60])
        yield [half, whole]
        half.write_bytes((folder / "image_1.png").read_bytes())
        yield [half]
        raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, "__iter__", arrive)
    result = CliRunner().invoke(cli.main, ["curate", str(empty), "--watch", "--top", "1"])
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    assert "failed" not in result.stderr  # it was only half there, the first time
    assert "2 scored, 1 kept" in result.stderr
