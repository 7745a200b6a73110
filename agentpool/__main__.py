"""`python -m agentpool` is the same as `agentpool`."""

from agentpool.cli import main

main()
