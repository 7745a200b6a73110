"""Agents on many machines: worker processes on a Ray cluster. Needs `pip install 'trio-agentpool[ray]'`."""

from agentpool.ray._placement import RayPlacement as RayPlacement

RayPlacement.__module__ = __name__

__all__ = ["RayPlacement"]
