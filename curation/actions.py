"""What is done with a selection: copy, move, link, trash. Journalled before it happens, undoable.

``plan`` decides on names without touching anything, ``perform`` carries a journal out, ``undo``
takes it back, and ``repair`` finds what a killed run left and brings each file to one known place.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError
from ..artimuse_core.images import EXTENSIONS
from . import files, trash, write_metadata
from .files import ChangedError
from .journal import Journal, Step, journals
from .records import Record

SIDECARS = (".txt", ".json", ".xmp", ".caption")
"""Files beside an image that belong to it, as ``image.txt`` or ``image.png.txt``."""

KINDS = ("copy", "move", "symlink", "hardlink", "trash", "png", "xmp")


@dataclass(frozen=True, slots=True)
class Chosen:
    """An image to act on."""

    path: Path
    folder: str = ""
    """Folder below the target; empty for the target itself."""
    score: float = 0.0
    std: float = 0.0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """What was asked to be done, and with which images."""

    kind: str
    target: Path | None = None
    rest: bool = False
    """With the images that are not kept, instead of the kept ones."""

    def chosen(self, ranked: Sequence[Record]) -> list[Chosen]:
        """The images to act on; those that could not be scored are never among them."""
        return [
            Chosen(Path(r.path), r.bucket or "", r.score, r.std, r.model)
            for r in ranked
            if r.error is None and r.selected is not self.rest
        ]

    def describe(self, outcome: Outcome) -> str:
        """One line, such as ``12 images copied to best, with 3 sidecars``."""
        text = f"{outcome.done} images {_PAST[self.kind]}"
        if self.target is not None:
            text += f" to {self.target}"
        if outcome.sidecars:
            text += f", with {outcome.sidecars} sidecars"
        return text


@dataclass
class Outcome:
    """What an action came to."""

    done: int = 0
    """Images, without their sidecars."""
    sidecars: int = 0
    failures: list[str] = field(default_factory=list)
    """One line each."""


def check_local(option: str, roots: Sequence[Path | str]) -> None:
    """Refuse to act on what is not on this machine: it could not be journalled and undone."""
    for root in roots:
        if isinstance(root, str):
            raise UsageError(
                f"{option} touches files, and {root} is not on this machine; --out and --report "
                "say what to keep"
            )


def check_target(option: str, target: Path, roots: Sequence[Path | str]) -> None:
    """Refuse a target that is, or lies in, a scanned folder: the next run would rank the copies."""
    resolved = target.resolve()
    for root in roots:
        if isinstance(root, Path) and root.is_dir() and resolved.is_relative_to(root.resolve()):
            raise UsageError(f"{option} {target} lies in {root}; choose a folder outside of it")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{option} {target} is a file; expected a folder")


def plan(chosen: Sequence[Chosen], kind: str, target: Path | None = None) -> list[Step]:
    """The steps of an action, with a free name for each file. Touches nothing.

    An equal file already at its place is not copied again; a different one of that name is never
    overwritten: image and sidecars then go by ``name-2`` together.
    """
    planner = _Planner(kind, target)
    for choice in chosen:
        planner.add(choice)
    return planner.steps


class _Planner:
    def __init__(self, kind: str, target: Path | None) -> None:
        assert kind in KINDS
        self.kind = kind
        self.target = target
        self.steps: list[Step] = []
        self._taken: set[str] = set()
        self._leaving: set[Path] = set()
        self._images: dict[Path, dict[str, list[Path]]] = {}

    def add(self, choice: Chosen) -> None:
        image = Path(os.path.abspath(choice.path))
        if self.kind == "xmp":
            self._add_xmp(choice, image)
            return
        sidecars = [] if self.kind == "png" else list(_sidecars(image))
        if self.target is None:
            names = dict.fromkeys([image, *sidecars])
        else:
            folder = Path(os.path.abspath(self.target)) / choice.folder
            named = self._free_names(folder, image, sidecars)
            if named is None:
                return
            names = dict(named)
        self._leaving.add(image)
        for file, target in names.items():
            kind = self.kind
            if kind in ("move", "trash") and file != image and self._is_shared(file, image):
                if kind == "trash":
                    continue  # another image still needs it
                kind = "copy"
            self._step(kind, file, target, file == image, choice)

    def _step(
        self, kind: str, file: Path, target: Path | None, image: bool, choice: Chosen
    ) -> None:
        values: dict[str, object] = {}
        if kind == "png":
            values = _score(choice)
        elif kind == "move" and file.is_file():
            values = _marks(file)
        number = len(self.steps)
        self.steps.append(Step(number, kind, str(file), str(target or ""), image, values))

    def _add_xmp(self, choice: Chosen, image: Path) -> None:
        sidecar = image.with_name(image.name + ".xmp")
        number, before = len(self.steps), _text_or_none(sidecar)
        self.steps.append(
            Step(number, "xmp", str(image), str(sidecar), True, _score(choice), before)
        )

    def _free_names(
        self, folder: Path, image: Path, sidecars: Sequence[Path]
    ) -> list[tuple[Path, Path]] | None:
        """Targets of an image and its sidecars; None where the image is there already."""
        attempt = 1
        while True:
            suffix = "" if attempt == 1 else f"-{attempt}"
            stem = image.stem + suffix
            names = [(f, folder / (stem + f.name[len(image.stem) :])) for f in [image, *sidecars]]
            clashes = [(f, t) for f, t in names if str(t) in self._taken or os.path.lexists(t)]
            if not clashes:
                self._taken.update(str(target) for _, target in names)
                return names
            repeats = self.kind in ("copy", "symlink", "hardlink") and clashes[0][0] == image
            if repeats and files.same_content(*clashes[0]):
                return None
            attempt += 1

    def _is_shared(self, sidecar: Path, image: Path) -> bool:
        """Whether an image that stays behind has the same sidecar: a.txt of a.png and a.jpg."""
        if sidecar.name.startswith(image.name):
            return False
        folder = image.parent
        if folder not in self._images:
            stems: dict[str, list[Path]] = defaultdict(list)
            for path in folder.iterdir():
                if path.suffix.lower() in EXTENSIONS:
                    stems[path.stem].append(path)
            self._images[folder] = stems
        return any(path not in self._leaving for path in self._images[folder][image.stem])


def _score(choice: Chosen) -> dict[str, object]:
    return {"score": choice.score, "std": choice.std, "model": choice.model}


def _marks(path: Path) -> dict[str, object]:
    """By which a moved file is known again."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _sidecars(image: Path) -> Iterator[Path]:
    for ending in SIDECARS:
        for path in (image.with_suffix(ending), image.with_name(image.name + ending)):
            if path.is_file() and path != image:
                yield path


def perform(journal: Journal, on_step: Callable[[Step], None] = lambda step: None) -> Outcome:
    """Carry out a journal's plan. A file that fails is reported, and the rest goes on.

    Raises ArtiMuseError where the journal itself cannot be written any more.
    """
    outcome = Outcome()
    for step in journal.steps:
        try:
            facts = _do(step)
        except (OSError, ArtiMuseError) as error:
            if isinstance(error, MissingExtraError):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            journal.mark_failed(step.number, str(reason))
            outcome.failures.append(f"{step.source}: not {_PAST[step.kind]}: {reason}")
        else:
            journal.mark_done(step.number, **facts)
            outcome.done += step.image
            outcome.sidecars += not step.image
        on_step(step)
    journal.write({"finished": True}, sync=True)
    return outcome


_PAST = {
    "copy": "copied", "move": "moved", "symlink": "linked", "hardlink": "linked",
    "trash": "trashed", "png": "written", "xmp": "written",
}  # fmt: skip


def _do(step: Step) -> dict[str, object]:
    """One step; returns what undoing it will want to know."""
    source, target = Path(step.source), Path(step.target)
    if step.target:
        target.parent.mkdir(parents=True, exist_ok=True)
    match step.kind:
        case "copy":
            return {"sha256": files.copy(source, target)}
        case "move":
            if source.is_symlink():  # a relative one would point nowhere
                raise ChangedError("it is a symbolic link; move what it points to")
            files.move(source, target)
        case "symlink":
            if not source.is_file():
                raise FileNotFoundError(2, "the file is gone")
            target.symlink_to(source)
        case "hardlink":
            os.link(source, target)
        case "trash":
            return {"where": trash.send(source)}
        case "png":
            data = write_metadata.png_with_score(source.read_bytes(), step.values)
            return {"sha256": files.create(target, data, like=source)}
        case "xmp":
            text = write_metadata.xmp_with_score(step.before, step.values)
            if _text_or_none(target) != step.before:
                raise ChangedError("the sidecar changed meanwhile")
            files.write_over(target, text.encode("utf-8"))
            return {"sha256": files.sha256_of(target)}
    return {}


def undo(journal: Journal) -> Outcome:
    """Take back what a journal says was done, last step first.

    A copy that was changed since, or a place that is taken again, is left alone and reported.
    """
    outcome = Outcome()
    for step in reversed(journal.steps):
        if step.number not in journal.done or step.number in journal.undone:
            continue
        interrupted = step.number in journal.undoing
        journal.write({"undoing": step.number})
        try:
            _undo(step, journal.done[step.number], interrupted)
        except (OSError, ArtiMuseError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            outcome.failures.append(f"{step.target or step.source}: not undone: {reason}")
        else:
            journal.write({"undone": step.number})
            outcome.done += step.image
            outcome.sidecars += not step.image
    journal.write({"finished": True}, sync=True)
    _remove_empty_folders(journal)
    return outcome


def _undo(step: Step, facts: dict[str, object], interrupted: bool) -> None:
    source, target = Path(step.source), Path(step.target)
    match step.kind:
        case "copy" | "png":
            if interrupted and not os.path.lexists(target):
                return
            if files.sha256_of(target) != facts.get("sha256"):
                raise ChangedError("the copy was changed since; remove it by hand")
            target.unlink()
        case "move":
            if interrupted:
                files.sweep(target, source)
                if source.is_file() and not target.exists():
                    return
                if files.same_content(source, target):  # copied back, and killed before removing
                    target.unlink()
                    return
            source.parent.mkdir(parents=True, exist_ok=True)
            files.move(target, source)
        case "symlink":
            if target.is_symlink() and str(target.readlink()) == step.source:
                target.unlink()
            elif os.path.lexists(target):
                raise ChangedError("this is not the link that was made; remove it by hand")
        case "hardlink":
            if target.exists() and not target.samefile(source):
                raise ChangedError("this is not the link that was made; remove it by hand")
            target.unlink(missing_ok=True)
        case "trash":
            if not (interrupted and source.exists()):
                trash.restore(source, str(facts.get("where") or ""))
        case "xmp":
            if interrupted and _text_or_none(target) == step.before:
                return
            if files.sha256_of(target) != facts.get("sha256"):
                raise ChangedError("the sidecar was changed since; edit it by hand")
            if step.before is None:
                target.unlink()
            else:
                files.write_over(target, step.before.encode("utf-8", "surrogateescape"))


def _text_or_none(path: Path) -> str | None:
    """A sidecar's text with its line ends, whatever bytes it holds."""
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else None


def _remove_empty_folders(journal: Journal) -> None:
    folders = {Path(step.target).parent for step in journal.steps if step.target}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        with suppress(OSError):  # not empty, or gone: both are fine
            folder.rmdir()


def repair(folder: Path) -> list[str]:
    """Bring what killed runs left half-done into order; one line for each such run.

    Runs that are still going on (their journal is locked) are left alone.
    """
    lines = []
    for journal in journals(folder):
        if journal.finished and not journal.undoing - journal.undone:
            continue
        if not journal.open():
            continue
        try:
            lines.append(_repair(Journal.read(journal.path), journal))
        finally:
            journal.close()
    return [line for line in lines if line]


def _repair(journal: Journal, writer: Journal) -> str:
    """``writer`` holds the lock; ``journal`` is what stands in the file since."""
    journal._file = writer._file
    if journal.finished and not journal.undoing - journal.undone:
        return ""
    if journal.undoing:
        outcome = undo(journal)
        left = f", {len(outcome.failures)} could not be" if outcome.failures else ""
        return f"undoing run {journal.run} was interrupted; the rest is undone now{left}"
    if not journal.planned:
        journal.write({"finished": True})
        return f"run {journal.run} was interrupted before it touched any file"
    completed = begun = 0
    for step in journal.steps:
        if step.number in journal.done or step.number in journal.failed:
            continue
        state = _look(step)
        if state is None:
            journal.mark_failed(step.number, "interrupted before it began")
        else:
            completed += 1
            journal.mark_done(step.number, **state)
        begun += state is not None
    journal.write({"finished": True}, sync=True)
    images = [step for step in journal.steps if step.image]
    done = sum(step.number in journal.done for step in images)
    verb = _PAST[images[0].kind] if images else "touched"
    undone = f"; --undo {journal.run} takes them back" if done else ""
    return (
        f"run {journal.run} was interrupted: {done} of {len(images)} images are {verb}, the rest "
        f"is where it was{undone}"
    )


def _look(step: Step) -> dict[str, object] | None:
    """What the disk says of a step without a line: facts if it is done, None if it is not begun.

    A move between file systems that was killed between copy and removal is completed.
    """
    source, target = Path(step.source), Path(step.target)
    match step.kind:
        case "copy" | "move" | "png":
            files.sweep(source, target)
            if not target.is_file():
                return None
            if step.kind == "move" and not source.exists():
                return {} if _marks(target) == step.values else None
            if step.kind == "png":
                whole = write_metadata.png_with_score(source.read_bytes(), step.values)
                made = target.read_bytes() == whole
            else:
                made = files.same_content(source, target)
            if made and step.kind == "move":
                source.unlink()
            return {"sha256": files.sha256_of(target)} if made else None
        case "symlink":
            made = target.is_symlink() and str(target.readlink()) == step.source
            return {} if made else None
        case "hardlink":
            made = target.exists() and source.exists() and target.samefile(source)
            return {} if made else None
        case "trash":
            return None if source.exists() else {"where": trash.find(source)}
        case _:
            files.partial_of(target).unlink(missing_ok=True)
            if _text_or_none(target) == step.before:
                return None
            return {"sha256": files.sha256_of(target)}
