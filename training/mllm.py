"""Ask a multimodal model about an image, through any OpenAI-compatible endpoint.

Two things go wrong and are treated apart. The way there: 429, 5xx, timeouts, broken responses;
asked again after a growing pause. The answer itself: a refusal, or not what was asked for; asked
again with a word on what was wrong. What only a person can put right (a key, a model's name, an
empty account) raises ModelError and ends the run.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import tenacity
from PIL import Image

from ..artimuse_core.errors import ImageError, ModelError, UsageError
from ..artimuse_core.images import load_image, one_line

log = logging.getLogger(__name__)

Check = Callable[[str], str]
"""The answer as it is kept; raises BadAnswer."""

_PAUSE_S = 0.5
_IMAGES = 32
"""Encoded images kept, for the eight questions about one."""
_REFUSAL = re.compile(
    r"^\W*(i['’]?m (very |so )?sorry|i am sorry|sorry|i apologi[sz]e|unfortunately,? i|as an ai\b"
    r"|i('m| am) (unable|not able)|i (can ?not|can['’]t|won['’]t|will not)\b)",
    re.IGNORECASE,
)


class BadAnswer(Exception):  # noqa: N818
    """An answer that cannot be used, with the reason."""


class ItemFailed(Exception):  # noqa: N818
    """One item cannot be had, with the reason; the others may."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        """Whether no response came at all, however often it was asked."""


class BrokenResponse(Exception):  # noqa: N818
    """A response that is no chat completion: cut short, or another page altogether."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who is asked, and how patiently."""

    model: str
    base_url: str | None = None
    """``http://localhost:8000/v1``; None: what OPENAI_BASE_URL says, or else OpenAI."""
    timeout_s: float = 120
    attempts: int = 6
    """Of one request, before its item has failed."""
    answers: int = 3
    """Unusable answers to one question, before its item has failed."""
    longest_wait_s: float = 60
    """Between two attempts."""
    max_tokens: int = 400
    """Of one answer; 100 words are some 140, reasoning comes on top."""
    temperature: float | None = None
    """None leaves it to the endpoint: some models take no other."""
    side: int = 1024
    """Larger images are sent scaled down to this many pixels on the long side."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("expected the name of a model to ask, got none")
        for name in ("timeout_s", "attempts", "answers", "max_tokens", "side"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}: expected more than 0, got {getattr(self, name)}")


@dataclass(slots=True)
class Spent:
    """What one item took, unusable answers included."""

    tokens_in: int = 0
    tokens_out: int = 0
    requests: int = 0

    def add(self, usage: Any) -> None:
        if usage is not None:
            self.tokens_in += usage.prompt_tokens or 0
            self.tokens_out += usage.completion_tokens or 0


class Mllm:
    """A client of one endpoint; use it within one event loop, and close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._images = _Images(endpoint.side)
        # Some of OpenAI's models know the limit by its newer name alone.
        self._limit = "max_tokens"
        # The client's own retries are neither counted nor told of: ours are.
        options: dict[str, Any] = {
            "base_url": endpoint.base_url, "timeout": endpoint.timeout_s, "max_retries": 0,
        }  # fmt: skip
        try:
            self.client = openai.AsyncOpenAI(**options)
        except openai.OpenAIError:
            if endpoint.base_url is None:
                raise UsageError("the endpoint needs a key: set OPENAI_API_KEY") from None
            self.client = openai.AsyncOpenAI(api_key="none", **options)

    async def close(self) -> None:
        await self.client.close()

    async def ask(self, image: Path, prompt: str, check: Check, spent: Spent) -> str:
        """The answer that ``check`` lets pass. Raises ItemFailed, or ModelError for the run."""
        try:
            url = await asyncio.to_thread(self._images.url, image)
        except ImageError as error:
            raise ItemFailed(str(error)) from error
        wrong = ""
        for _ in range(self.endpoint.answers):
            remark = f"\n\nYour last answer could not be used: {wrong}." if wrong else ""
            try:
                return check(_text(await self._request(url, prompt + remark, spent)))
            except BadAnswer as error:
                wrong = str(error)
                log.info("%s: %s", image.name, wrong)
        raise ItemFailed(f"{self.endpoint.answers} answers could not be used, the last: {wrong}")

    async def _request(self, url: str, prompt: str, spent: Spent) -> Any:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception(_may_pass),
        )
        try:
            return await retrying(self._once, url, prompt, spent)
        except tenacity.RetryError as error:
            last = error.last_attempt.exception()
            assert last is not None
            raise ItemFailed(
                f"{self.endpoint.attempts} requests failed, the last: {_why(last)}",
                unreachable=isinstance(last, openai.APIConnectionError),
            ) from last
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise ModelError(f"{_why(error)}; check key, endpoint and the model's name") from error
        except openai.RateLimitError as error:  # of these, only an empty account gets here
            raise ModelError(f"{_why(error)}; what is done is kept") from error
        except openai.APIStatusError as error:
            if _code(error) == "content_filter":
                raise BadAnswer(f"refused: {_why(error)}") from error
            raise ItemFailed(f"the endpoint takes no such request: {_why(error)}") from error

    async def _once(self, url: str, prompt: str, spent: Spent) -> Any:
        text = {"type": "text", "text": prompt}
        content = [text, {"type": "image_url", "image_url": {"url": url}}]
        options: dict[str, Any] = {self._limit: self.endpoint.max_tokens}
        if self.endpoint.temperature is not None:
            options["temperature"] = self.endpoint.temperature
        spent.requests += 1
        try:
            answer = await self.client.chat.completions.create(
                model=self.endpoint.model,
                messages=[{"role": "user", "content": content}],  # type: ignore[misc,list-item]
                **options,
            )
        except openai.BadRequestError as error:
            if error.param != "max_tokens" or self._limit != "max_tokens":
                raise
            self._limit = "max_completion_tokens"
            return await self._once(url, prompt, spent)
        except ValueError as error:
            raise BrokenResponse(f"not JSON: {one_line(error)}") from error
        if not getattr(answer, "choices", None):  # also a page of HTML, which comes as a string
            raise BrokenResponse(f"no chat completion: {one_line(ValueError(answer))[:80]}")
        spent.add(answer.usage)
        return answer

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Twice as long each time, by chance shorter; never shorter than the endpoint asks for."""
        assert state.outcome is not None
        error = state.outcome.exception()
        longest = self.endpoint.longest_wait_s
        pause = tenacity.wait_random_exponential(multiplier=_PAUSE_S, max=longest)(state)
        if isinstance(error, openai.APIStatusError):
            asked = error.response.headers.get("retry-after", "")
            if asked.replace(".", "", 1).isdigit():
                pause = max(pause, min(float(asked), longest))
        assert error is not None
        log.info("asked again in %.1f s: %s", pause, _why(error))
        return pause


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, openai.RateLimitError):
        return _code(error) != "insufficient_quota"
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, BrokenResponse))


def _code(error: openai.APIError) -> str:
    return str(error.code or "")


def _why(error: BaseException) -> str:
    if isinstance(error, openai.APITimeoutError):
        return "timed out"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection: {one_line(error.__cause__ or error)}"
    return one_line(error)[:300]


def _text(answer: Any) -> str:
    choice = answer.choices[0]
    text: str = (choice.message.content or "").strip()
    refusal = getattr(choice.message, "refusal", None)
    if refusal or choice.finish_reason == "content_filter":
        raise BadAnswer(f"refused: {one_line(ValueError(refusal or 'content filter'))[:120]}")
    if choice.finish_reason == "length":
        raise BadAnswer("it was cut short by the limit of tokens")
    if not text:
        raise BadAnswer("it was empty")
    if _REFUSAL.match(text):
        raise BadAnswer(f"refused: {one_line(ValueError(text))[:120]}")
    return text


class _Images:
    """Images as data URLs, the last few kept."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._urls: OrderedDict[Path, str] = OrderedDict()
        self._lock = threading.Lock()

    def url(self, path: Path) -> str:
        """Raises ImageError."""
        with self._lock:
            if path in self._urls:
                return self._urls[path]
        image = load_image(path)
        image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=92)
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        with self._lock:
            self._urls[path] = url
            while len(self._urls) > _IMAGES:
                self._urls.popitem(last=False)
        return url
