"""Journalled actions as a run does them, and what lies on the disk."""

from pathlib import Path

from artimuse.curation.actions import Chosen, perform, plan, undo
from artimuse.curation.journal import Journal, find


def snapshot(*roots: Path) -> dict[str, bytes]:
    """Relative path and content of every file below some folders."""
    return {
        f"{root.name}/{path.relative_to(root)}": path.read_bytes()
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def act(journals: Path, kind: str, images, target=None, *, run: str = "run", **fields):
    chosen = [Chosen(Path(image), **fields) for image in images]
    journal = Journal.create(journals, run, plan(chosen, kind, target))
    outcome = perform(journal)
    journal.close()
    return outcome


def take_back(journals: Path, run: str = "run"):
    journal = find(journals, run)
    assert journal.open()
    outcome = undo(journal)
    journal.close()
    return outcome
