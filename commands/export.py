"""``artimuse export``: artifacts that score without torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import click

from .common import Group, existing_or_not, needs


@click.group(cls=Group)
def export() -> None:
    """Turn a checkpoint into an artifact that scores without torch."""


@export.command("onnx")
@click.option("--model", required=True, help="A checkpoint: name, hub id or directory.")
@click.option("--output", required=True, type=existing_or_not, help="The bundle; must not exist.")
@click.option("--name", default="", help="The model's name in results; the checkpoint's otherwise.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(("fp32", "fp16", "int8", "int4")),
)
def export_onnx(model: str, output: Path, name: str, precision: str) -> None:
    """Export the scoring graph as an ONNX bundle, verified against torch."""
    from ..artimuse_core.models import locate

    with needs("torch,export"):
        from ..export import to_onnx
    # The exporter warns of packages it would only need for other models, and of its own code.
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    written = to_onnx.export_onnx(locate(model), output, name=name, precision=precision)
    click.echo(str(written))


@export.command("verify")
@click.argument("directory", type=existing_or_not)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def export_verify(directory: Path, device: str) -> None:
    """Compare a bundle, here, with what torch answered when it was exported."""
    from ..export import verify

    click.echo(str(verify.verify_bundle(directory, device)))
