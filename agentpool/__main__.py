"""`python -m agentpool` is the same as `agentpool`."""

from agentpool.cli import main

if __name__ == "__main__":
    main()
