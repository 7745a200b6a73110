"""`agentpool cluster`: how a Ray cluster is started for agents, and who may do what there."""

from __future__ import annotations

from collections.abc import Iterator

from agentpool.cli._tables import can_draw

# What it says was seen with Ray 2.60, on two nodes in network namespaces: which sockets listen, who is let in
# with and without tokens and TLS, and what can be read on the way.
PAGE = """\
AGENTS ON A RAY CLUSTER

In a fleet file with placement = "ray" below [pool], and in a program that
opens its pool with placement=RayPlacement(), agents run in worker processes on
the nodes of a Ray cluster. Limits, budgets, messages and outcomes stay in the
process that you start: the head of the pool, which keeps the journal too, if
the run has one.

BEFORE THE FIRST NODE

On every node, and where the head runs, install the same versions of Python, of
Ray and of agentpool, and what your agents import:

    pip install 'trio-agentpool[ray]'

Ray refuses another version of itself or of Python, down to the last number.
Functions, tools and manifests that a fleet names by files have to be in the
same directory on each node: on a shared disk, or copied there.

START AND END

One machine, and nothing to start: without a cluster, the run starts one on
this machine, and ends it. Write address = "local" below [placement] for that
always.

Several machines. Make a token first, on the first node:

    export RAY_AUTH_MODE=token
    ray get-auth-token --generate
    chmod 600 ~/.ray/auth_token
    ray start --head --node-ip-address 10.0.0.1 --port 6379

Copy the token to each other node (see TOKENS), and there:

    export RAY_AUTH_MODE=token
    ray start --address 10.0.0.1:6379 --node-ip-address 10.0.0.2

The run is started on one of these nodes, with RAY_AUTH_MODE=token too. It
takes part in the cluster, and is no client of it: addresses with ray:// are
refused.

    [pool]
    placement = "ray"
    [placement]
    address = "10.0.0.1:6379"

`ray status` shows the nodes. With --block, `ray start` stays, and ends the
node on SIGTERM. `ray stop` ends everything of Ray on the machine, other
clusters too.

WHO MAY DO WHAT

Whoever reaches the ports of a cluster that has no tokens can run any code on
each of its nodes, as the user that started Ray there, and read what the agents
are given and return. With tokens, whoever has the token can. There are no
users and no rights within a cluster: who runs one agent there can run
anything. Agents' capabilities and sandboxes hold for what models do, not
against that.

ADDRESSES AND PORTS

Ray listens on every address of a machine. --node-ip-address says by which one
the others find it, and closes nothing: a node whose address is 10.0.0.1 is
reached by each address that the machine has. Let the nodes reach each other on
all ports, in a network of their own, and have a firewall let in nobody else.

    6379            the first node's, --port; on every address
    2 for a node    --node-manager-port, --object-manager-port; else any free
                    ones; on every address
    1 for a node    --runtime-env-agent-port; on the node's address only
    1 for a worker, and 1 for the run
                    from --min-worker-port to --max-worker-port; else any
                    free ones; on every address

agentpool does not need the dashboard of ray[default], which has further ports.

TOKENS

RAY_AUTH_MODE=token has each process of the cluster ask for the token. It is
read from RAY_AUTH_TOKEN, from the file that RAY_AUTH_TOKEN_PATH names, or from
~/.ray/auth_token. `ray get-auth-token` prints it; --generate makes one if
there is none, in a file that other users of the machine may read: hence the
chmod.

`ray start --head` turns tokens on by itself if there is one already, and only
warns if there is none. Other nodes, and runs with an address, do not look for
one unless RAY_AUTH_MODE=token is set, and are refused.

Without TLS the token can be read on the network, and what agents are given and
return as well.

TLS

Set on each node, and for the run, before anything is started:

    export RAY_USE_TLS=1
    export RAY_TLS_CA_CERT=/etc/ray/ca.crt
    export RAY_TLS_SERVER_CERT=/etc/ray/node.crt
    export RAY_TLS_SERVER_KEY=/etc/ray/node.key

Each node has a certificate of the same authority, with the node's address, and
127.0.0.1, as subjectAltName. Nodes without TLS, and nodes with a certificate
of another authority, do not get in. The calls of nodes, workers and runs are
encrypted then; the port of --runtime-env-agent-port is not. Use tokens as
well.

MORE

https://docs.ray.io has the manuals of Ray. The guide of agentpool, "Agents on
a cluster", tells what runs where, and what becomes of agents whose node is
lost.
"""


def lines_of_page() -> Iterator[tuple[str, bool]]:
    """Yield the lines of the page, each with whether it is a heading."""
    for line in PAGE.splitlines():
        yield line, line.isupper() and not line.startswith(" ")


def print_page() -> None:
    """Print the page; on a terminal with headings that stand out."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, force_terminal=None if can_draw() else False)
    for line, is_heading in lines_of_page():
        console.print(Text(line, "bold" if is_heading else ""))
