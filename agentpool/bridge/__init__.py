"""Pools for programs that do not run on trio: plain scripts, threads, notebooks, and asyncio.

`open_agent_pool_blocking` and `open_agent_pool_asyncio` open a pool that runs on trio in a thread of its
own; `asyncio_agent` makes an agent of a function that is written for asyncio.
"""

from agentpool.bridge._asyncio_pool import AsyncioAgentPool as AsyncioAgentPool
from agentpool.bridge._asyncio_pool import AsyncioEvents as AsyncioEvents
from agentpool.bridge._asyncio_pool import open_agent_pool_asyncio as open_agent_pool_asyncio
from agentpool.bridge._asyncio_pool import resume_agent_pool_asyncio as resume_agent_pool_asyncio
from agentpool.bridge._asyncio_scope import AsyncioAgentHandle as AsyncioAgentHandle
from agentpool.bridge._blocking import BlockingAgentHandle as BlockingAgentHandle
from agentpool.bridge._blocking import BlockingAgentPool as BlockingAgentPool
from agentpool.bridge._blocking import BlockingEvents as BlockingEvents
from agentpool.bridge._blocking import open_agent_pool_blocking as open_agent_pool_blocking
from agentpool.bridge._blocking import resume_agent_pool_blocking as resume_agent_pool_blocking
from agentpool.bridge._context import AsyncioAgentContext as AsyncioAgentContext
from agentpool.bridge._context import AsyncioDriver as AsyncioDriver
from agentpool.bridge._context import AsyncioInbox as AsyncioInbox
from agentpool.bridge._context import AsyncioMemory as AsyncioMemory
from agentpool.bridge._functions import asyncio_agent as asyncio_agent
from agentpool.bridge._functions import asyncio_function as asyncio_function
