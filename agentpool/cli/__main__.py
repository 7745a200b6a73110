"""`python -m agentpool.cli` is the same as `agentpool`."""

from agentpool.cli import main

main()
