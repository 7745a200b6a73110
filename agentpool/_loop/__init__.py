"""The agent that asks a model: it performs the effects of the pure loop in `_core/loop.py`."""
