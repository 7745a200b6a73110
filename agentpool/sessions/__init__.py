"""Conversations that are kept by name, in an SQLite file."""

from agentpool.sessions._sqlite import Conversation as Conversation
from agentpool.sessions._sqlite import Session as Session
