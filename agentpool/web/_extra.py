"""What has to be installed."""

from __future__ import annotations

from importlib.util import find_spec


def check_extra() -> None:
    """Refuse to serve the live page without what serves it.

    Raises:
      ModuleNotFoundError: with what to install.
    """
    for module in ("hypercorn", "starlette"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(
                f"the live page needs {module}, which is missing: pip install 'trio-agentpool[web]'",
                name=module,
            )
