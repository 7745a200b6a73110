"""Fleets: which agents run in a pool, on which questions; from a file to running agents."""

from agentpool.fleet.file import FleetAgent as FleetAgent
from agentpool.fleet.file import FleetFile as FleetFile
from agentpool.fleet.file import FleetFunction as FleetFunction
from agentpool.fleet.start import start_fleet as start_fleet
