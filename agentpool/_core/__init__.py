"""Pure decisions and frozen values: no trio, no clock, no randomness, no files."""
