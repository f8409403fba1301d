"""Does this installation score as it should? Goldens that ship with the package, for any backend.

Four parts, each of which has silently ruined scores somewhere before: the pixels, the score tokens,
the prompt, and the logits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import bundle
from .engines import Floats, OnnxEngine
from .errors import MissingExtraError, UsageError
from .models import locate
from .pictures import render_pictures
from .preprocess import preprocess_batch
from .prompts import IMG_CONTEXT, INTERNVL2_5_SYSTEM, SCORE_QUESTION, chat_prompt
from .score_tokens import ORDERED_100, ScoreTokens

PICTURES = 3
"""Enough to see a fault, few enough for 8B on a CPU; ``artimuse export verify`` takes all 64."""

FP32_LOGIT_BOUND = 2e-3
SCORE_BOUND = 0.5
"""Score points, for computation in 16 bits or less."""

_GOLDENS = Path(__file__).parent / "goldens.json"


@dataclass(frozen=True)
class Check:
    """One comparison with a golden."""

    name: str
    ok: bool
    detail: str
    """What was compared, or what differs."""


def run(model: str | Path, device: str = "auto", dtype: str = "auto") -> Iterator[Check]:
    """Compare everything that decides a score with its golden, part by part."""
    goldens: dict[str, Any] = json.loads(_GOLDENS.read_text("utf-8"))
    yield _preprocessing(goldens["preprocessing_sha256"])
    table = dict(zip(ORDERED_100.tokens, ORDERED_100.values, strict=True))
    yield _equal("token table", table, goldens["token_table"])
    yield _equal(
        "prompt text",
        {
            name: _sha(chat_prompt(SCORE_QUESTION, system).text())
            for name, system in (("None", "None"), ("template", INTERNVL2_5_SYSTEM))
        },
        goldens["prompt_sha256"],
    )
    directory = locate(model)
    if bundle.is_bundle(directory):
        yield from _bundle(directory, device)
    else:
        yield from _checkpoint(directory, device, dtype, goldens["qwen2_5_score_token_ids"])


def _preprocessing(wanted: dict[str, str]) -> Check:
    got = {
        side: hashlib.sha256(
            preprocess_batch(render_pictures(PICTURES), int(side)).tobytes()
        ).hexdigest()
        for side in wanted
    }
    return _equal("preprocessing", got, wanted)


def _bundle(directory: Path, device: str) -> Iterator[Check]:
    manifest = bundle.read(directory)
    wanted = bundle.golden_logits(directory)[:PICTURES]
    engine = OnnxEngine(directory, manifest, device=device)
    got = engine.score_logits(preprocess_batch(render_pictures(PICTURES), manifest.input_size))
    # A quantized artifact may be as far off as when it was exported, and as much as kernels differ.
    bound = SCORE_BOUND + manifest.verification.get("max_score_error", 0.0)
    what = f"onnxruntime on {engine.device} and torch"
    yield _logits(what, got, wanted, manifest.precision, manifest.tokens(), bound)


def _checkpoint(directory: Path, device: str, dtype: str, qwen_ids: list[int]) -> Iterator[Check]:
    try:
        import torch

        from . import checkpoint
        from .torch_graph import graph_over, pick_device, pick_dtype
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "torch") from error

    tokenizer = checkpoint.load_tokenizer(directory)
    config = checkpoint.read_config(directory)
    tokens = checkpoint.score_tokens(config)
    if tokens != ORDERED_100:
        raise UsageError(f"{directory} answers in {tokens.name}; only {ORDERED_100.name} is tested")
    ids = list(tokens.ids(tokenizer.get_vocab()))
    if len(tokenizer) > max(qwen_ids):
        yield _equal("score token ids", ids, qwen_ids)
    else:
        yield Check("score token ids", True, f"{len(ids)} single tokens of a vocabulary of its own")
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    model = checkpoint.load_model(directory, kind, place)
    graph, prompt = graph_over(model, config, tokenizer)
    prompt_ids = tokenizer(prompt.text(graph.image_tokens), add_special_tokens=False).input_ids
    image_ids = [tokenizer.convert_tokens_to_ids(IMG_CONTEXT)] * graph.image_tokens
    cut_at_image = graph.before_ids.tolist() + image_ids + graph.after_ids.tolist()
    yield _equal("prompt tokens", cut_at_image, prompt_ids)
    pixels = torch.from_numpy(preprocess_batch(render_pictures(PICTURES), graph.input_size)).to(
        place, kind
    )
    # The naive forward of transformers' own class over the same weights, every logit built.
    with torch.inference_mode():
        wanted = torch.cat(
            [
                model(
                    input_ids=torch.tensor([prompt_ids], device=place),
                    pixel_values=one[None],
                    logits_to_keep=1,
                ).logits[:, -1, ids]
                for one in pixels
            ]
        )
        got = graph.freeze()(pixels)
    name = str(kind).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")
    yield _logits(
        f"scoring graph and transformers on {place}",
        got.float().cpu().numpy(),
        wanted.float().cpu().numpy(),
        name,
    )


def _logits(
    what: str,
    got: Floats,
    wanted: Floats,
    precision: str,
    tokens: ScoreTokens = ORDERED_100,
    bound: float = SCORE_BOUND,
) -> Check:
    read, expected = tokens.readout(got), tokens.readout(wanted)
    points = float(np.abs(read.score - expected.score).max())
    error = float(np.abs(got - wanted).max())
    fine = error <= FP32_LOGIT_BOUND if precision == "fp32" else points <= bound
    detail = f"{what}, {precision}: logits differ by up to {error:.1g}, scores by {points:.2g}"
    return Check("logits", fine, detail)


def _equal(name: str, got: Any, wanted: Any) -> Check:
    if got == wanted:
        return Check(name, True, "as the reference has it")
    if isinstance(wanted, dict):
        differing = [key for key in wanted if got.get(key) != wanted[key]]
        return Check(name, False, f"differs for {', '.join(map(str, differing[:5]))}")
    return Check(name, False, f"got {str(got)[:60]}, expected {str(wanted)[:60]}")


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
