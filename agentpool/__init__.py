"""Structured concurrency for many language-model agents, on trio."""
