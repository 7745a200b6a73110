"""What the command line raises by itself."""

from __future__ import annotations

from agentpool._core.errors import ManifestError


class BadInputError(Exception):
    """Something that the user gave is wrong; each of `problems` says what and how to fix it."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__(*problems)


class OutputLostError(Exception):
    """Standard output took not all that there was to say; the text says why. Empty: nobody reads it."""


def problems_of(error: ManifestError | BadInputError) -> list[str]:
    """Return what is wrong with the user's input, one text for each problem."""
    if isinstance(error, BadInputError):
        return list(error.problems)
    return [str(finding) for finding in error.findings]
