"""How much a model can read, as its server tells it: where to ask, and what the answer means.

Servers name the number in different ways, and some name two: what the model was trained for, and what
it was loaded with. Only the second is a limit that holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agentpool.drivers._reading import count, first_count, items_of, mapping_of, words

ASKING_SECONDS = 2.0
"""Seconds that asking for a model's window may take, all questions together."""

SHORTEST_REQUEST = 2_000
"""Tokens of a request, estimated, from which on the window is asked for: it is of no use to shorter ones."""

Reader = Callable[[Mapping[str, Any], str], int]
"""From the JSON data of an answer, and a model's name, to the tokens of its window; 0 if it is not said."""


@attrs.frozen
class Source:
    """A place where a server may say how much a model can read.

    Attributes:
      path: where to ask, below the driver's address.
      read: what the answer means.
      at_root: whether the path stands below the server itself, beside its `/v1`.
      question: JSON data to send; None for a GET.
    """

    path: str
    read: Reader
    at_root: bool = False
    question: Mapping[str, Any] | None = None


@attrs.frozen
class Room:
    """What a server says of a request whose answer may become longer than there is room for.

    Attributes:
      window: tokens of a request and its answer together.
      given: tokens of the request.
    """

    window: int
    given: int


_NUMBER = r"(\d[\d,]*)"
_WINDOW = rf"context (?:length|limit|window)(?: is| of|:)? {_NUMBER}|must be <= {_NUMBER}"
_GIVEN = (
    rf"{_NUMBER} (?:tokens )?(?:in the (?:messages|functions|prompt)|in your prompt|from the input"
    r"|of text input|of tool input|input tokens|.?inputs.? tokens)"
)
_SUM = rf"context limit: {_NUMBER} \+ {_NUMBER} > {_NUMBER}"


def room_in(text: str) -> Room | None:
    """Read how much room there is from a refusal of a request that is too long together with its answer.

    OpenAI, vLLM, SGLang, TGI, OpenRouter and Anthropic tell; None if nothing is told.
    """
    text = text.lower()
    if added := re.search(_SUM, text):
        return Room(_count(added[3]), _count(added[1]))
    window, given = re.search(_WINDOW, text), re.findall(_GIVEN, text)
    if window is None or not given:
        return None
    return Room(_count(window[1] or window[2]), sum(map(_count, given)))


def _count(digits: str) -> int:
    return int(digits.replace(",", ""))


def root_of(base: str) -> str:
    """Return an address without the `/v1` of OpenAI's API at its end."""
    return re.sub(r"/(?:openai/)?v1(?:beta)?(?:/openai)?$", "", base.rstrip("/"))


# -- the entry of a model in a list ------------------------------------------------------------


def _entries(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the models that an answer lists; one that is about a single model is such a list, too."""
    listed = data.get("data") if "data" in data else data.get("models")
    found = [mapping_of(item) for item in items_of(listed)]
    return found or [data]


def _entry(data: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """Return what an answer says of a model: by its name, or because it is the only one."""
    entries = _entries(data)
    names = (model, f"{model}:latest", f"models/{model}")
    for entry in entries:
        if any(entry.get(key) in names for key in ("id", "model", "name", "key")):
            return entry
    return entries[0] if len(entries) == 1 else {}


# -- readers -----------------------------------------------------------------------------------


def window_in_list(data: Mapping[str, Any], model: str) -> int:
    """Read `GET /v1/models` of vLLM, SGLang, OpenRouter, Groq, Mistral, llama.cpp, LM Studio and others.

    `n_ctx_train` is what the model was trained for, and no limit.
    """
    entry = _entry(data, model)
    loaded = first_count(entry, "loaded_context_length") or _of_instances(entry)
    if loaded:
        return loaded
    served = first_count(mapping_of(entry.get("top_provider")), "context_length")
    said = first_count(
        entry,
        "max_model_len",
        "context_length",
        "context_window",
        "max_input_tokens",
        "inputTokenLimit",
        "n_ctx",
    ) or first_count(mapping_of(entry.get("meta")), "n_ctx")
    return (
        min(said, served) if said and served else said or served or first_count(entry, "max_context_length")
    )


def _of_instances(entry: Mapping[str, Any]) -> int:
    """Return the window of the loaded instances of LM Studio's own list; the smallest of several."""
    instances = [mapping_of(item) for item in items_of(entry.get("loaded_instances"))]
    sizes = [first_count(mapping_of(item.get("config")), "context_length") for item in instances]
    return min(filter(None, sizes), default=0)


def window_in_props(data: Mapping[str, Any], model: str) -> int:
    """Read `GET /props` of llama.cpp: what one of its slots can hold."""
    return first_count(mapping_of(data.get("default_generation_settings")), "n_ctx") or first_count(
        data, "n_ctx"
    )


def window_when_loaded(data: Mapping[str, Any], model: str) -> int:
    """Read `GET /api/ps` of Ollama: what a model that is loaded was loaded with."""
    running = [mapping_of(item) for item in items_of(data.get("models"))]
    names = (model, f"{model}:latest")
    found = next((item for item in running if item.get("model") in names or item.get("name") in names), {})
    return count(found.get("context_length"))


def window_when_shown(data: Mapping[str, Any], model: str) -> int:
    """Read `POST /api/show` of Ollama: what the model file sets, else what the model was trained for.

    The latter may be more than the server provides; then it refuses what does not fit.
    """
    match = re.search(r"^\s*num_ctx\s+(\d+)", words(data.get("parameters")), re.MULTILINE)
    if match is not None:
        return int(match[1])
    info = mapping_of(data.get("model_info"))
    return next((count(value) for name, value in info.items() if name.endswith(".context_length")), 0)


def window_of_a_model(data: Mapping[str, Any], model: str) -> int:
    """Read what Gemini and Anthropic say of one model."""
    return first_count(data, "inputTokenLimit", "max_input_tokens")
