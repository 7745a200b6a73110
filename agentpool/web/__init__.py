"""The live page of a pool: what its agents do, in a browser, on this machine."""

from agentpool.web._approving import PageApprover as PageApprover
from agentpool.web._serve import serve_live_page as serve_live_page
