"""What the commands share: options of the model, errors as one line, exit codes.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 some images failed, 2 wrong
usage. Commands import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artimuse_core.errors import ArtiMuseError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from ..artimuse_core.critic import Critic
    from ..artimuse_core.scorer import ModelSpec, Scorer
    from ..curation.records import Record

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

existing_or_not = click.Path(path_type=Path)


class Place(click.ParamType[Any]):
    """A path, or as a string the URL of something that fsspec reaches."""

    name = "path or URL"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path | str:
        from ..curation.sources import place

        return place(value) if isinstance(value, str) else value


class Command(click.Command):
    """Turns our errors into one line on stderr and the right exit code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        # Read when Pillow is first imported, which an argument's type may do. Blocks this large go
        # back to the system when freed; smaller ones pile up in each thread's heap, gigabytes of
        # them where pictures are large.
        os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
        return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        # Pillow warns about oddities of single files; what matters of them is in the results.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            return super().invoke(ctx)
        except ArtiMuseError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED)


class Group(click.Group):
    command_class = Command


Group.group_class = Group


@dataclass(frozen=True)
class Model:
    """What a command's options say of the model and of how to run it."""

    model: str
    device: str
    dtype: str
    batch_size: int
    max_pixels: float
    """Megapixels."""
    quantize: str
    compile: bool
    deterministic: bool

    @property
    def pixels(self) -> int:
        return int(self.max_pixels * 1e6)

    def spec(self) -> ModelSpec:
        """The same without megapixels, to load from here or elsewhere."""
        from ..artimuse_core.scorer import ModelSpec

        return ModelSpec(
            self.model, self.device, self.dtype, self.batch_size, self.pixels, self.quantize,
            self.deterministic, self.compile,
        )  # fmt: skip

    def load(self) -> Scorer:
        """Load the model and say on stderr which one scores."""
        return _said(self.spec().scorer())

    def critic(self) -> Critic:
        """Load a model that writes; UsageError where it was trained to score only."""
        from ..artimuse_core.critic import Critic
        from ..artimuse_core.models import locate

        return Critic.load(
            locate(self.model),
            self.device,
            self.dtype,
            max_pixels=self.pixels,
            quantize=self.quantize,
            compiled=self.compile,
        )

    def load_critic(self) -> tuple[Scorer, Critic]:
        """The same, once for scores and texts; said on stderr."""
        critic = self.critic()
        return _said(critic.scorer(deterministic=self.deterministic)), critic


def _said(scorer: Scorer) -> Scorer:
    click.echo(f"model {scorer.name} on {scorer.engine.device}: {scorer.card}", err=True)
    return scorer


def with_options(
    command: Callable[..., Any], *options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make up a :class:`Model`, which the command gets as ``use``."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        use = Model(**{part.name: given.pop(part.name) for part in fields(Model)})
        return command(use=use, **given)

    return with_options(
        gathered,
        click.option(
            "--model",
            default="nano",
            envvar="ARTIMUSE_MODEL",
            show_envvar=True,
            show_default=True,
            help="nano (embedded), artimuse (the authors' 8B; also -ava, -para, -tad66k, "
            "-flickr-aes), a hub id, or a directory: checkpoint, adapter, ONNX bundle.",
        ),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda, mps or tensorrt."
        ),
        click.option(
            "--dtype", default="auto", show_default=True, help="auto, fp32, bf16 or fp16."
        ),
        click.option(
            "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Images."
        ),
        click.option(
            "--max-pixels",
            default=89.0,
            show_default=True,
            type=click.FloatRange(0, 178, min_open=True),
            help="Larger images are reported, not decoded; in megapixels.",
        ),
        click.option(
            "--quantize",
            default="none",
            show_default=True,
            help="int8 or nf4 weights, for a checkpoint on a small card.",
        ),
        click.option(
            "--compile",
            is_flag=True,
            help="Compile a checkpoint's graph first; worth it for long runs on a GPU.",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help="Compute each image alone: no score depends on its neighbours.",
        ),
    )


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports: a missing dependency says which extra brings it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(error.name or "a dependency", extra) from error


def finish(records: Sequence[Record], wanted: int, failures: Sequence[str] = ()) -> None:
    """Report failures on stderr and leave with the exit code they ask for."""
    failed = [record for record in records if record.error is not None]
    for record in failed:
        click.echo(f"failed: {record.path}: {record.error}", err=True)
    for line in failures:
        click.echo(f"failed: {line}", err=True)
    if len(records) < wanted:
        click.echo(f"interrupted after {len(records)} of {wanted} images", err=True)
        sys.exit(INTERRUPTED)
    if failed or failures:
        sys.exit(FAILED)
