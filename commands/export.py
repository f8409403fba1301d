"""``artimuse export``: artifacts that score without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..artimuse_core.errors import UsageError
from .common import FAILED, Group, existing_or_not, needs

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4", "fp8")


@click.group(cls=Group)
def export() -> None:
    """Turn a checkpoint into an artifact that scores without torch."""


class Batch(click.ParamType[int]):
    """0 for a batch of any size."""

    name = "dynamic|N"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        text = str(value)
        if text == "dynamic":
            return 0
        if text.isdecimal() and int(text) > 0:
            return int(text)
        return self.fail(f"{text!r}: expected dynamic, or the images of a run, e.g. 8", param, ctx)


images_option = click.option(
    "--images",
    type=existing_or_not,
    help="Verify on these too, besides 64 rendered pictures: a file or a folder.",
)


@export.command("onnx")
@click.option("--model", required=True, help="A checkpoint: name, hub id or directory.")
@click.option("--output", required=True, type=existing_or_not, help="The bundle; must not exist.")
@click.option("--name", default="", help="The model's name in results; the checkpoint's otherwise.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS))
@click.option("--batch", default="dynamic", show_default=True, type=Batch(), help="Images a run.")
@click.option("--opset", type=int, help="Of ONNX; the default, 20, serves every provider.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where torch and the artifact are compared."
)
@click.option(
    "--tools",
    default="onnxruntime",
    show_default=True,
    type=click.Choice(("onnxruntime", "optimum")),
    help="Whose quantizer (int8) or optimizer (fp32); optimum is an extra.",
)
@click.option("--critique", is_flag=True, help="Graphs that write critiques too; in fp32.")
@click.option(
    "--whole-pixels",
    is_flag=True,
    help="Multiply pixels as the 8-bit numbers they are: faster on CPUs where the model is small.",
)
@images_option
def export_onnx(
    model: str,
    output: Path,
    name: str,
    precision: str,
    batch: int,
    opset: int | None,
    device: str,
    tools: str,
    critique: bool,
    whole_pixels: bool,
    images: Path | None,
) -> None:
    """Export the scoring graph as an ONNX bundle, verified against torch."""
    from ..artimuse_core.models import locate

    with needs("torch,export"):
        from ..export import to_onnx, verify
        from ..export.trace import OPSET
    recipe = to_onnx.Recipe(
        precision=precision,
        batch=batch,
        opset=opset or OPSET,
        device=device,
        tools=tools,
        critique=critique,
        whole_pixels=whole_pixels,
    )
    manifest = to_onnx.export_onnx(locate(model), output, recipe, name=name, images=_files(images))
    if manifest.quantization:
        click.echo(f"quantized: {manifest.quantization}", err=True)
    click.echo(f"verified: {verify.Agreement(**manifest.verification)}", err=True)
    click.echo(str(output))


@export.command("tensorrt")
@click.option("--model", required=True, help="A checkpoint, or an ONNX bundle in --precision.")
@click.option("--output", type=existing_or_not, help="The bundle; must not exist.")
@click.option("--name", default="", help="The model's name in results; the checkpoint's otherwise.")
@click.option(
    "--precision", default="fp16", show_default=True, type=click.Choice(("fp16", "bf16", "fp8"))
)
@click.option("--min-batch", default=1, show_default=True, help="Images a run, at least.")
@click.option("--opt-batch", default=8, show_default=True, help="The batch to be fastest at.")
@click.option("--max-batch", default=32, show_default=True, help="Images a run, at most.")
@click.option("--workspace-gb", default=4.0, show_default=True, help="For the builder to try in.")
@click.option("--dry-run", is_flag=True, help="Print the plan and check the graph; no GPU needed.")
@images_option
def export_tensorrt(
    model: str,
    output: Path | None,
    name: str,
    precision: str,
    min_batch: int,
    opt_batch: int,
    max_batch: int,
    workspace_gb: float,
    dry_run: bool,
    images: Path | None,
) -> None:
    """Build a TensorRT engine for the GPU at hand, verified against torch.

    Not run on a GPU by us yet: tell us how it went.
    """
    from ..artimuse_core.models import locate
    from ..artimuse_core.tensorrt import Plan

    with needs("torch,export"):
        from ..export import to_tensorrt
    plan = Plan(precision, min_batch, opt_batch, max_batch, workspace_gb)
    if dry_run:
        survey = to_tensorrt.survey(locate(model), plan)
        for line in survey.lines():
            click.echo(line)
        sys.exit(FAILED if survey.operators else 0)
    if output is None:
        raise UsageError("expected --output DIR (or --dry-run)")
    to_tensorrt.export_tensorrt(locate(model), output, plan, name=name, images=_files(images))
    click.echo(str(output))


@export.command("verify")
@click.argument("directory", type=existing_or_not)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or tensorrt.")
@images_option
def export_verify(directory: Path, device: str, images: Path | None) -> None:
    """Compare a bundle, here, with what torch answered when it was exported."""
    from ..export import verify

    click.echo(str(verify.verify_bundle(directory, device, _files(images))))


def _files(images: Path | None) -> list[Path]:
    from ..curation.scan import scan

    found = scan([images]) if images else []
    return [file for file in found if isinstance(file, Path)]
