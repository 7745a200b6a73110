"""Crashes: runs that are cut off anywhere, resumed, and compared with what they would have come to.

    python -m tests.crashes --runs 500 --kills 1000

is how agentpool proves that a journal forgets nothing.
"""
