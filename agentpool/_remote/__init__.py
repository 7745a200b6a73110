"""Agents that run in other processes: the head's proxies, the workers, and the way between them."""
