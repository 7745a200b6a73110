"""Who hears which topic."""

from __future__ import annotations

from agentpool._core.messages import AgentId
from agentpool._core.text import shown
from agentpool._kernel.protection import protect_module


class Topics:
    """The subscribers of each topic, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[AgentId, None]] = {}
        # What each agent hears, so that the end of one costs nothing for topics that it does not.
        self._heard: dict[AgentId, set[str]] = {}

    def subscribe(self, agent_id: AgentId, topic: str) -> None:
        """Have an agent hear a topic; harmless if it does.

        Raises:
          TypeError: if the topic is no string.
        """
        topic = plain_topic(topic)
        self._subscribers.setdefault(topic, {})[agent_id] = None
        self._heard.setdefault(agent_id, set()).add(topic)

    def unsubscribe(self, agent_id: AgentId, topic: str) -> None:
        """Undo `subscribe`; harmless if there is nothing to undo."""
        topic = plain_topic(topic)
        heard = self._heard.get(agent_id)
        if heard is None or topic not in heard:
            return
        heard.remove(topic)
        if not heard:
            del self._heard[agent_id]
        subscribers = self._subscribers[topic]
        del subscribers[agent_id]
        if not subscribers:
            del self._subscribers[topic]

    def subscribers(self, topic: str) -> list[AgentId]:
        """The agents that hear a topic, in the order in which they subscribed."""
        return list(self._subscribers.get(plain_topic(topic), ()))

    def forget(self, agent_id: AgentId) -> None:
        """An agent has ended."""
        if self._heard:
            for topic in tuple(self._heard.get(agent_id, ())):
                self.unsubscribe(agent_id, topic)


def plain_topic(topic: str) -> str:
    """Return a topic as a plain string: the end of an agent asks for its hash, and may not fail."""
    if type(topic) is str:
        return topic
    if not isinstance(topic, str):
        raise TypeError(f"a topic must be a string, not {shown(topic)}")
    return str.__str__(topic)


protect_module(globals())
