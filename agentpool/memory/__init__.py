"""Memories: what agents remember, and how they recall it."""

from agentpool.memory.in_memory import InMemory as InMemory
from agentpool.memory.sqlite import SqliteMemory as SqliteMemory
