"""A Ray cluster of several nodes on this machine, for those who kill nodes: a head that runs nothing, and others.

What lives here: starting nodes and killing them. What must not: what runs on them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Nodes"]

_STORE = 80 << 20
"""Bytes of a node's object store, nearly the least that Ray takes: nothing big passes through it."""


class Nodes:
    """`count` nodes of one CPU."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add()
        self.address: str = self._cluster.address

    @property
    def ids(self) -> list[str]:
        """Of the nodes that run units."""
        return [node.node_id for node in self._nodes]

    def add(self) -> None:
        """One node more."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_STORE))

    def kill(self, node_id: str) -> None:
        """SIGKILL to all processes of a node."""
        victim = next(node for node in self._nodes if node.node_id == node_id)
        self._nodes.remove(victim)
        self._cluster.remove_node(victim, allow_graceful=False)

    def stop(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()
