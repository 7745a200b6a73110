"""Speed of agentpool beside floors written by hand in raw trio; `python -m bench` runs it."""
