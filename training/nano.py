"""Train nano, the embedded model, from nothing: ``python -m artimuse.training.nano``.

nano is InternVL at a few million parameters: the same vision tower, pixel unshuffle, projector,
language model and Token As Score, sized so that one CPU core scores a hundred pictures a second.
Output: a checkpoint directory in the official format, weights in fp16, with ``figures.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..artimuse_core import checkpoint
from ..artimuse_core.model import ScoringGraph
from ..artimuse_core.prompts import IMG_CONTEXT
from ..artimuse_core.score_tokens import ORDERED_100
from ..artimuse_core.torch_graph import build_graph, pick_device
from .augment import resize
from .datasets import agiqa3k
from .datasets.agiqa3k import Rating
from .datasets.rendered import render
from .kept_stages import KeptStages
from .metrics import agreement, srcc
from .patch_filters import absolute_values, even_out, patch_filters, reference_levels
from .readout_stage import ReadoutRecipe, train_readout
from .score_batches import Pool
from .taught_views import Taught, ViewRecipe, Views, draw_views
from .text_stage import TextRecipe, train_text
from .texture import Atoms, Labels, TextureRecipe, learn_atoms, look, out_of_fold, regression
from .tokenizer import build_tokenizer, corpus, save_tokenizer
from .tower_stage import TowerRecipe, train_tower
from .vision import Normalise, predict

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NanoShape:
    """Sizes of the three parts; tokens = (input_size / patch_size)²."""

    input_size: int = 512
    """Side of the squashed picture, pixels."""
    patch_size: int = 32
    vision_width: int = 160
    vision_layers: int = 2
    vision_heads: int = 4
    vision_mlp: int = 320
    """Hidden units of the vision MLPs."""
    llm_width: int = 128
    llm_layers: int = 2
    llm_heads: int = 4
    llm_mlp: int = 384
    score_question: str = "Rate the aesthetics score of the image in 0-100."
    system_message: str = "You are ArtiMuse."

    def __post_init__(self) -> None:
        side, rest = divmod(self.input_size, self.patch_size)
        if rest or side % 2:
            raise ValueError(
                f"input_size {self.input_size} must be an even multiple of patch_size "
                f"{self.patch_size}: pixel unshuffle joins 2×2 patches"
            )

    def config(self, vocabulary: int, *, critiques: bool = False) -> dict[str, Any]:
        """``config.json`` in the official InternVLChat format; does it write ``critiques``?"""
        return {
            "architectures": ["InternVLChatModel"],
            "model_type": "internvl_chat",
            "template": "internvl2_5",
            "system_message": self.system_message,
            "score_question": self.score_question,
            "critiques": critiques,
            "draft": critiques,  # its words are marked as a draft model's
            "downsample_ratio": 0.5,
            "force_image_size": self.input_size,
            "dynamic_image_size": False,
            "ps_version": "v2",
            "select_layer": -1,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vision_config": {
                "architectures": ["InternVisionModel"],
                "model_type": "intern_vit_6b",
                "hidden_size": self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "intermediate_size": self.vision_mlp,
                "hidden_act": "gelu",
                "norm_type": "layer_norm",
                "layer_norm_eps": 1e-6,
                "image_size": self.input_size,
                "patch_size": self.patch_size,
                "qkv_bias": True,
                "qk_normalization": False,
            },
            "llm_config": {
                "architectures": ["Qwen2ForCausalLM"],
                "model_type": "qwen2",
                "vocab_size": vocabulary,
                "hidden_size": self.llm_width,
                "intermediate_size": self.llm_mlp,
                "num_hidden_layers": self.llm_layers,
                "num_attention_heads": self.llm_heads,
                "num_key_value_heads": max(1, self.llm_heads // 2),
                "hidden_act": "silu",
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
                "tie_word_embeddings": False,
            },
        }


@dataclass(frozen=True)
class NanoConfig:
    """All that decides the weights, with the data."""

    shape: NanoShape = field(default_factory=NanoShape)
    texture: TextureRecipe = field(default_factory=TextureRecipe)
    """Who teaches it to see, and smooths the ratings."""
    views: ViewRecipe = field(default_factory=ViewRecipe)
    """What else that teacher looks at."""
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    """How the tower learns to see what the teacher sees."""
    readout: ReadoutRecipe = field(default_factory=ReadoutRecipe)
    """How projector and language model learn to score once the tower stands."""
    text: TextRecipe | None = field(default_factory=TextRecipe)
    """How it learns to describe, afterwards; None for a model that scores only."""
    rendered: int = 512
    """Pictures drawn by code: the teacher says what they are worth."""
    seed: int = 0
    """Of what the weights start with."""
    split_seed: int = 0
    held_out: tuple[str, ...] = ()
    """Parts of the split never trained on. What the weights that know all are worth is measured on
    those that the same recipe makes with ``test`` held out."""


def build(config: NanoConfig, directory: Path) -> ScoringGraph:
    """Write tokenizer and ``config.json`` to ``directory``; return an untrained graph."""
    shape = config.shape
    save_tokenizer(build_tokenizer(corpus(shape.score_question, shape.system_message)), directory)
    tokenizer = checkpoint.load_tokenizer(directory)
    official = shape.config(len(tokenizer), critiques=config.text is not None)
    torch.manual_seed(config.seed)
    image_token = tokenizer.convert_tokens_to_ids(IMG_CONTEXT)
    model = checkpoint.build_model(official, image_token)
    checkpoint.save_model(directory, model, official, torch.float16)
    return build_graph(directory)[0].requires_grad_(True)


@torch.no_grad()
def initialise(graph: ScoringGraph, pool: Pool, seed: int) -> None:
    """Start values that suit a small model: a tower that sees, and ordered score tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pool.images), generator=generator)[:64]
    pictures = pool.images[rows.to(pool.images.device)].cpu().float() / 255
    start_tower(graph.vision, resize(pictures, graph.input_size), generator)
    graph.lm_head.weight[graph.score_ids] += _ordered_rows(
        len(graph.score_ids), graph.lm_head.in_features, generator
    )


@torch.no_grad()
def start_tower(vision: Any, pictures: Tensor, generator: torch.Generator) -> None:
    """Filters and their energies, positions and layer scale of a vision tower.

    ``pictures``: (n, 3, S, S) in 0..1 of the kind it will see, S being its input size.
    """
    embeddings, size = vision.embeddings, pictures.shape[-1]
    weight = embeddings.patch_embeddings.projection.weight  # (width, 3, p, p)
    patch = weight.shape[-1]
    patches = Normalise()(pictures).unfold(2, patch, patch).unfold(3, patch, patch)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (n, 3, p, p)
    weight.copy_(even_out(patch_filters(len(weight), patch, generator), patches))
    embeddings.position_embeddings[0, 1:] = _wave_positions(size // patch, weight.shape[0])
    embeddings.position_embeddings[0, 1:] += reference_levels(len(weight))
    absolute_values(vision.encoder.layer[0].mlp)
    for layer in vision.encoder.layer:
        layer.lambda_1.fill_(0.5)
        layer.lambda_2.fill_(0.5)


def _ordered_rows(count: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, width) rows of the score tokens on a curve: one direction shifts, others shape.

    At random, hundreds of steps go by before the answer depends on the picture at all.
    """
    directions = torch.linalg.qr(torch.randn(width, 3, generator=generator))[0].T
    z = torch.linspace(-1.7, 1.7, count)[:, None]
    curve = torch.cat([z, 0.7 * (z**2 - 1), 0.5 * (z**3 - 1.8 * z)], dim=1)
    return curve @ directions


def _wave_positions(side: int, width: int) -> Tensor:
    """(side², width) sines and cosines of row and column."""
    frequencies = torch.logspace(0, -1.5, width // 4)
    angles = torch.arange(side)[:, None] * frequencies * torch.pi / 2  # (side, width / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return 0.3 * torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


def load_pool(ratings: Sequence[Rating], rendered: int, device: torch.device) -> Pool:
    """Decode every picture once; rendered ones, worth nobody knows what, follow the rated ones."""
    images = torch.stack([_decode(rating.image) for rating in ratings])
    size = images.shape[-1]
    nothing = [float("nan")] * rendered
    opinion = torch.tensor([r.score for r in ratings] + nothing, device=device)
    return Pool(
        images=torch.cat([images, render(rendered, size)]).to(device),
        score=opinion.clone(),
        opinion=opinion,
        texture=torch.empty(len(images) + rendered, 0, device=device),
    )


def labels_of(ratings: Sequence[Rating]) -> Labels:
    """What the teacher knows of them: a group is a generator, driven in one way."""
    groups = [f"{rating.generator} {rating.variant}" for rating in ratings]
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return Labels(
        torch.tensor([rating.score for rating in ratings]),
        [rating.prompt for rating in ratings],
        torch.tensor([numbers[group] for group in groups]),
    )


def teach(config: NanoConfig, pool: Pool, labels: Labels, stages: KeptStages) -> Taught:
    """Let the teacher look at the pictures of ``pool``, the first of them rated as ``labels`` say,
    and at views of them."""
    images, device, count = pool.images.cpu(), pool.images.device, len(labels.score)
    decides = config.texture, config.rendered, config.split_seed, config.held_out

    @cache  # learnt where something is left to look at
    def dictionary() -> list[Atoms]:
        return learn_atoms(images[:count], config.texture)

    def sees(pictures: Tensor) -> Tensor:
        return look(pictures, dictionary())

    looks: Tensor = stages("looks", decides, lambda: sees(images))
    rated, drawn = looks.split([count, config.rendered])
    said = out_of_fold(rated, labels, config.texture)
    _log.info("texture teacher: SRCC %.3f", srcc(said, labels.score))
    learnt = regression(rated.to(device), labels.to(device), config.texture)
    words = learnt(drawn.to(device)).clamp(0, 100)
    views = stages("views", config.views, lambda: vars(draw_views(images, sees, config.views)))
    known = {name: kept.to(device) for name, kept in views.items() if name != "pixels"}
    return Taught(
        looks.to(device),
        labels.score.to(device),
        torch.cat([said.to(device), words]),
        learnt,
        Views(views["pixels"], **known),  # gigabytes: they stay where they are
    )


def _decode(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def squashed(images: Sequence[Path | Image.Image], size: int, batch: int = 32) -> Iterator[Tensor]:
    """(b, 3, size, size) uint8 batches, resized as inference does."""
    for start in range(0, len(images), batch):
        pixels = []
        for item in images[start : start + batch]:
            image = Image.open(item) if isinstance(item, Path) else item
            image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        yield torch.stack(pixels)


def save(directory: Path, graph: ScoringGraph) -> None:
    """Write the graph's weights, rounded to fp16, into a directory made by :func:`build`."""
    official = checkpoint.read_config(directory)
    parts = {
        "model.vision_tower.": graph.vision,
        "model.multi_modal_projector.": graph.projector,
        "model.language_model.": graph.decoder,
        "lm_head.": graph.lm_head,
    }
    state = {
        prefix + name: tensor.detach().cpu()
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    model = checkpoint.load_model(directory)
    model.load_state_dict(state)
    checkpoint.save_model(directory, model, official, torch.float16)


def evaluate(directory: Path, ratings: Sequence[Rating], device: torch.device) -> dict[str, Any]:
    """Agreement of the saved (rounded) weights with people on ``ratings``."""
    graph = build_graph(directory)[0].freeze().to(device)
    logits = predict(graph, squashed([r.image for r in ratings], graph.input_size), device)
    readout = ORDERED_100.readout(logits.numpy())
    figures = agreement(readout.score, ratings).as_dict()
    human = np.array([r.score for r in ratings])
    error, larger = np.abs(readout.score - human), readout.std > np.median(readout.std)
    figures["mean_error_smaller_std"] = float(error[~larger].mean())
    figures["mean_error_larger_std"] = float(error[larger].mean())
    return figures


def train(
    config: NanoConfig, data: Path, output: Path, device: torch.device, resume: bool = False
) -> dict[str, Any]:
    """Train, save and evaluate; returns what ``figures.json`` holds for the exporter."""
    parts = agiqa3k.split(agiqa3k.load(data), config.split_seed)
    trained = [r for part, rs in parts.items() if part not in config.held_out for r in rs]
    pool = load_pool(trained, config.rendered, device)
    stages = KeptStages(output / "stages", resume=resume)
    taught = teach(config, pool, labels_of(trained), stages)
    pool.score = taught.smoothed(config.texture.trust)
    graph = build(config, output)
    initialise(graph, pool, config.seed)

    def tower() -> dict[str, Tensor]:
        train_tower(graph, pool, taught, config.tower)
        return graph.state_dict()

    def readout() -> dict[str, Tensor]:
        train_readout(graph, pool, taught, config.readout)
        return graph.state_dict()

    graph.load_state_dict(stages("tower", (config.shape, config.tower), tower))
    graph.load_state_dict(stages("readout", config.readout, readout))
    written = None
    if config.text:
        tokenizer = checkpoint.load_tokenizer(output)
        written = train_text(graph, tokenizer, pool, config.text, config.shape.system_message)
    save(output, graph)
    facts = _facts(config, parts, sum(weight.numel() for weight in graph.parameters()))
    facts["figures"] = {part: evaluate(output, parts[part], device) for part in config.held_out}
    if written:
        facts["text_loss"] = written
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    (output / "figures.json").write_text(text, encoding="utf-8")
    return facts


def _facts(config: NanoConfig, parts: dict[str, list[Rating]], parameters: int) -> dict[str, Any]:
    """What the bundle's manifest will say of the weights."""
    trained = [r for part, rs in parts.items() if part not in config.held_out for r in rs]
    held_out = [f"; held out, {part}: {_counted(parts[part])}" for part in config.held_out]
    return {
        "card": f"nano, {parameters / 1e6:.1f} million parameters trained from scratch on "
        f"{len(trained)} rated AI-generated images; a draft judge",
        "licence": "Apache-2.0",
        "data": f"AGIQA-3K (MIT), {_counted(trained)}, rated{''.join(held_out)}; "
        f"{config.rendered} pictures drawn by code, unrated",
        "recipe": asdict(config),
    }


def _counted(ratings: Sequence[Rating]) -> str:
    return f"{len(ratings)} images of {len({rating.prompt for rating in ratings})} prompts"


def _shortened(config: NanoConfig, steps: int) -> NanoConfig:
    """Each stage that many steps, and about as many views: enough that some are spoiled."""
    return replace(
        config,
        views=replace(config.views, count=max(100, steps)),
        tower=replace(config.tower, steps=steps),
        readout=replace(config.readout, steps=steps),
        text=config.text and replace(config.text, steps=steps),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: results on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="artimuse.training.nano", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AGIQA-3K: labels.csv, images/")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument(
        "--resume", action="store_true", help="read stages that are finished, in OUTPUT/stages"
    )
    parser.add_argument("--steps", type=int, help="of each stage, for a trial")
    parser.add_argument(
        "--hold-out", choices=agiqa3k.PARTS, action="append", default=[],
        help="a part of the prompts to measure on in place of learning from it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--split-seed", type=int, default=NanoConfig.split_seed, help="cut the prompts otherwise"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = NanoConfig(split_seed=options.split_seed, held_out=tuple(options.hold_out))
    if options.steps:
        config = _shortened(config, options.steps)
    facts = train(config, options.data, options.output, pick_device(options.device), options.resume)
    print(json.dumps(facts["figures"], indent=1))


if __name__ == "__main__":
    main()
