"""What the command line raises by itself."""


class BadInputError(Exception):
    """Something that the user gave is wrong; the text says what and how to fix it."""
