"""`--log-file` and `--log-level`: what is told through `logging`, in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from agentpool._kernel.log_filter import AgentLogFilter
from agentpool.cli._errors import BadInputError
from agentpool.cli._vars import parse_file

_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(agent_id)d %(agent_name)s] %(message)s"


@contextmanager
def logging_into(file: str | None, level: str | None) -> Iterator[None]:
    """Add the log records of the whole program to the end of a file, while the block runs.

    Args:
      file: what `--log-file` says; None for no file.
      level: what `--log-level` says: the least that is written; `info` if it is left out.

    Raises:
      BadInputError: if the file cannot be written, or there is a level and no file.
    """
    if file is None:
        if level is not None:
            raise BadInputError("--log-level says what is written into a file: give --log-file FILE with it")
        yield
        return
    path = parse_file("--log-file", file)
    try:
        # Names and errors may hold what UTF-8 cannot: they are escaped.
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise BadInputError(f"--log-file {path}: {error.strerror or error}") from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(AgentLogFilter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel((level or "info").upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
