"""The page that shows a run, as one HTML document."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from agentpool._core.plain_json import plain_json


def page_html(data: Mapping[str, Any]) -> str:
    """Return the document."""
    title = html.escape(str(data.get("title", "")))
    told = plain_json(data).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f'<body><script id="run" type="application/json">{told}</script></body></html>'
    )


def page_policy() -> str:
    """Return its Content-Security-Policy."""
    return "default-src 'none'; connect-src 'self'"
