"""Pieces of a graph that can run in one go: groups of nodes that no path leaves and comes back to."""

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet


def convex_groups(successors: Sequence[Collection[int]], taken: AbstractSet[int]) -> tuple[tuple[int, ...], ...]:
    """Group the taken nodes of a graph into as few connected groups as joining neighbours can reach.

    1. With each group as one node, the graph has no cycle: a group runs after all that it needs and before all that
       needs it. So no path leads from a group through another node back into it.
    2. Each group is connected by edges of its own.
    3. No two groups with an edge between them could be joined without breaking 1.

    A node's level is the largest number of times that a path to it enters the taken nodes. Neighbours of one level are
    joined first, which cannot close a cycle since every way back from outside enters again; what is left is joined edge
    by edge where there is no second way.

    Args:
        successors: of each node; every edge leads to a larger index.
        taken: indices of the nodes to group.

    Returns:
        Groups of indices, each sorted, by their first index.
    """
    group = list(range(len(successors)))  # the smallest index of the group that a node belongs to
    level = [0] * len(successors)
    for node, following in enumerate(successors):
        for other in following:
            level[other] = max(level[other], level[node] + (node not in taken and other in taken))
    inner = [(node, other) for node in sorted(taken) for other in sorted(successors[node]) if other in taken]
    for node, other in inner:
        if level[node] == level[other]:
            _join(group, node, other)
    joined = True
    while joined:
        joined = False
        for node, other in inner:
            first, second = _root(group, node), _root(group, other)
            if first != second and not _second_way(successors, group, first, second):
                _join(group, first, second)
                joined = True
    members: dict[int, list[int]] = {}
    for node in sorted(taken):
        members.setdefault(_root(group, node), []).append(node)
    return tuple(tuple(nodes) for nodes in members.values())


def _root(group: list[int], node: int) -> int:
    while group[node] != node:
        group[node] = group[group[node]]
        node = group[node]
    return node


def _join(group: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(group, one), _root(group, other)))
    group[second] = first


def _second_way(successors: Sequence[Collection[int]], group: list[int], start: int, end: int) -> bool:
    """Whether a path leads from one group to another through a third."""
    members: dict[int, list[int]] = {}
    for node in range(len(successors)):
        members.setdefault(_root(group, node), []).append(node)

    def following(root: int) -> Iterator[int]:
        return (_root(group, other) for node in members[root] for other in successors[node])

    waiting = [root for root in following(start) if root not in (start, end)]
    seen = set(waiting)
    while waiting:
        for root in following(waiting.pop()):
            if root == end:
                return True
            if root not in seen:
                seen.add(root)
                waiting.append(root)
    return False
