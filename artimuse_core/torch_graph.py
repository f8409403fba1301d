"""From a checkpoint directory to a running scoring graph in torch. Imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import checkpoint
from .answers import answer_ids
from .errors import ModelError, OutOfMemoryError, UsageError
from .images import one_line
from .model import ScoringGraph
from .prompts import Prompt
from .quantize import QUANTIZATIONS, quantize_blocks
from .score_tokens import ScoreTokens

Floats = npt.NDArray[np.float32]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_graph(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    tokens: ScoreTokens | None = None,
    device: str | torch.device = "cpu",
) -> tuple[ScoringGraph, Prompt]:
    """Load a checkpoint of any layout as an unfrozen graph, with the prompt it asks.

    ``tokens``: its own strategy if None.
    """
    config = checkpoint.read_config(directory)
    _refuse_tiles(directory, config)
    model = checkpoint.load_model(directory, dtype, device)
    return graph_over(model, config, checkpoint.load_tokenizer(directory), tokens)


def _refuse_tiles(directory: Path, config: Mapping[str, Any]) -> None:
    if config.get("max_tiles", 1) > 1:
        raise ModelError(
            f"{directory} was trained on several tiles an image (paper App. D.1, an ablation), "
            "which nothing but its own training evaluates; train with one tile to score with it"
        )


def graph_over(
    model: torch.nn.Module,
    config: Mapping[str, Any],
    tokenizer: Any,
    tokens: ScoreTokens | None = None,
) -> tuple[ScoringGraph, Prompt]:
    """The graph of a loaded model with its ``config.json`` and tokenizer, and the prompt it asks.

    It runs through the model's own modules, LoRA layers included.
    """
    prompt = checkpoint.score_prompt(config)
    before, after = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (prompt.before, prompt.after)
    )
    answers = answer_ids(tokens or checkpoint.score_tokens(config), tokenizer)
    graph = ScoringGraph(model, before, after, answers)
    return graph.to(next(model.parameters()).device), prompt


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA, then MPS, then the CPU; a device asked for by name must be there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used: {one_line(error)}") from error
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where a GPU has it natively, fp16 on other GPUs, fp32 on the CPU."""
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if dtype not in _DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


class GraphRunner:
    """A frozen graph on its device, fed with numpy."""

    def __init__(
        self,
        directory: Path,
        *,
        device: str,
        dtype: str,
        quantize: str = "none",
        keep_text: bool = True,
        compiled: bool = False,
    ) -> None:
        """``quantize``: see :mod:`.quantize`; ``keep_text``: for critiques, not for scores."""
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        if quantize not in QUANTIZATIONS:
            raise UsageError(
                f"unknown quantization {quantize!r}; known: {', '.join(QUANTIZATIONS)}"
            )
        if quantize == "none":
            graph, _ = build_graph(directory, self.dtype, device=self.device)
        else:
            # Mapped on the host; layer by layer, only the small weights reach the device.
            graph, _ = build_graph(directory, self.dtype)
            for blocks in (graph.vision.encoder, graph.decoder.layers):
                quantize_blocks(blocks, quantize, self.device)
            graph = graph.to(self.device)
        self.tokens = checkpoint.score_tokens(checkpoint.read_config(directory))
        self.graph = graph.freeze(keep_text=keep_text)
        # Each is compiled, if at all, when it is first called.
        self._forward: Any = torch.compile(self.graph) if compiled else self.graph
        both = self.graph.score_and_embed
        self._forward_both: Any = torch.compile(both) if compiled else both

    def score_logits(self, pixel_values: Floats) -> Floats:
        """(B, 3, S, S) fp32 → (B, K) fp32. Raises OutOfMemoryError, other ModelErrors."""
        return self._run(lambda pixels: (self._forward(pixels),), pixel_values)[0]

    def score_and_embed(self, pixel_values: Floats) -> tuple[Floats, Floats]:
        """The same, and (B, W) fp32 unit vectors of what the vision tower saw."""
        logits, embedding = self._run(self._forward_both, pixel_values)
        return logits, embedding

    def _run(self, forward: Callable[[Tensor], Sequence[Tensor]], values: Floats) -> list[Floats]:
        try:
            with torch.inference_mode():
                pixels = torch.from_numpy(values).to(self.device, self.dtype)
                return [answer.cpu().numpy() for answer in forward(pixels)]
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or _says_out_of_memory(error):
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                raise OutOfMemoryError(
                    f"{self.device} ran out of memory at a batch of {len(values)}"
                ) from error
            raise ModelError(f"torch failed: {one_line(error)}") from error


def _says_out_of_memory(error: RuntimeError) -> bool:
    """The CPU's allocator and MPS raise a plain RuntimeError."""
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
