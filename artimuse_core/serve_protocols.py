"""What travels over HTTP: the four protocols' requests and answers, as pure functions.

GET  /health   Flow-Factory, UniRL
POST /compute  Flow-Factory   {"prompt": […], "image": [base64…]} → {"rewards": […]}
POST /score    UniRL          {"requests": [{"history": […], …}]} → {"results": […], …}
POST /         flow_grpo's and verl-omni's servers: a pickle of {"images": [bytes…]}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from .batching import RewardItem
from .errors import ImageError, UsageError

REWARD = "artimuse"
"""The reward's name in UniRL's ``required_rewards``."""

Source = bytes | ImageError
"""An image's bytes, or why there are none."""


# NaN is what these protocols say; JSON's own schema language has no word for it.
Value = Annotated[
    float, WithJsonSchema({"description": "A number, or NaN where `errors` says why."})
]

# Fields we do not know are other rewards' business; a number in quotes is a mistake.
_AS_SENT = ConfigDict(extra="ignore", strict=True)


class ComputeRequest(BaseModel):
    """Flow-Factory's request; fields for other media are taken and ignored."""

    model_config = _AS_SENT

    prompt: list[str] | None = Field(None, description="One a picture; the score ignores them.")
    image: list[str] = Field(description="Files (PNG, JPEG, …) in base64.")


class ComputeResponse(BaseModel):
    rewards: list[Value] = Field(description="In the images' order.")
    errors: list[str | None]


class Turn(BaseModel):
    model_config = _AS_SENT

    text: str | None = None
    image_b64: str | None = Field(None, description="A file (PNG, JPEG, …) in base64.")


class ScoreItem(BaseModel):
    """UniRL's request for one sample; the last picture of its history is scored."""

    model_config = _AS_SENT

    history: list[Turn]
    required_rewards: list[str] = Field(default_factory=lambda: [REWARD])
    metadata: Any = None
    request_id: str | None = None
    sample_id: str | None = None
    group_id: str | None = None
    source_rank: int | None = None
    policy_version: int | None = None
    idempotency_key: str | None = None


class ScoreRequest(BaseModel):
    model_config = _AS_SENT

    protocol_version: Literal["1"] | None = None
    requests: list[ScoreItem]


class ScoreResponse(BaseModel):
    protocol_version: Literal["1"]
    results: list[dict[str, dict[str, Value]]] = Field(description="reward → sub-metric → value")
    errors: list[dict[str, str]] = Field(description="reward → reason")
    identities: list[dict[str, Any]] = Field(description="Each request's own ids, sent back.")


def compute_sources(request: ComputeRequest) -> list[Source]:
    """Raises UsageError if prompts and pictures differ in number."""
    if request.prompt is not None and len(request.prompt) != len(request.image):
        raise UsageError(f"{len(request.prompt)} prompts for {len(request.image)} images")
    return [decode_base64(text) for text in request.image]


def compute_answer(items: Sequence[RewardItem]) -> dict[str, Any]:
    return {
        "rewards": [item.value for item in items],
        "errors": [item.error for item in items],
    }


def score_sources(request: ScoreRequest) -> list[Source]:
    return [_last_image(item.history) for item in request.requests]


def score_answer(
    request: ScoreRequest, items: Sequence[RewardItem], scorer_version: str
) -> dict[str, Any]:
    answer: dict[str, Any] = {"protocol_version": "1", "results": [], "errors": []}
    identities = []
    for asked, item in zip(request.requests, items, strict=True):
        wanted = asked.required_rewards or [REWARD]
        errors = {
            name: f"unknown reward; this server has {REWARD}" for name in wanted if name != REWARD
        }
        result = {}
        if REWARD in wanted:
            result[REWARD] = {"score": item.value, "std": item.std}
            if item.error is not None:
                errors[REWARD] = item.error
        answer["results"].append(result)
        answer["errors"].append(errors)
        ids = ("request_id", "sample_id", "group_id", "source_rank", "policy_version")
        identity = {name: getattr(asked, name) for name in (*ids, "idempotency_key")}
        identities.append({**identity, "scorer_version": scorer_version})
    return {**answer, "identities": identities}


def pickle_sources(message: Any) -> list[Source]:
    """Raises UsageError if the message is not ``{"images": [bytes…], …}``."""
    images = message.get("images") if isinstance(message, Mapping) else None
    if not isinstance(images, (list, tuple)):
        raise UsageError('expected a pickled {"images": [bytes, …]}')
    return [
        bytes(image)
        if isinstance(image, (bytes, bytearray))
        else ImageError(f"expected an image file's bytes, got {type(image).__name__}")
        for image in images
    ]


def pickle_answer(items: Sequence[RewardItem]) -> dict[str, Any]:
    """flow_grpo reads ``outputs``, verl-omni ``scores``."""
    values = [item.value for item in items]
    return {"outputs": values, "scores": values, "errors": [item.error for item in items]}


def decode_base64(text: str) -> Source:
    """A file in base64, with or without a ``data:`` prefix."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return ImageError(f"not base64: {error}")


def _last_image(history: Sequence[Turn]) -> Source:
    for turn in reversed(history):
        if turn.image_b64 is not None:
            return decode_base64(turn.image_b64)
    return ImageError("no image_b64 in its history")
