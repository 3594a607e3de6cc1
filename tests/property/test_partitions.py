"""Whatever is taken of whatever graph, its partitions can run one after another, and no two of them could be one."""

from hypothesis import given
from hypothesis import strategies as st

from fieldtune.placement.flow.partitions import convex_groups


@st.composite
def graphs(draw):
    """Return successors of up to 14 nodes in a running order, and which of them are taken."""
    size = draw(st.integers(1, 14))
    edges = [(low, high) for low in range(size) for high in range(low + 1, size)]
    chosen = draw(st.sets(st.sampled_from(edges), max_size=30)) if edges else set()
    successors = [sorted(high for low, high in chosen if low == node) for node in range(size)]
    return successors, draw(st.sets(st.integers(0, size - 1)))


def contracted(successors, groups):
    """Return the edges between groups, and between groups and single nodes."""
    owner = {node: group[0] for group in groups for node in group}
    edges = ((node, other) for node, following in enumerate(successors) for other in following)
    pairs = {(owner.get(node, node), owner.get(other, other)) for node, other in edges}
    return {(one, other) for one, other in pairs if one != other}


def has_a_cycle(edges):
    """Whether taking away what nothing leads to leaves something."""
    while edges:
        left = {(one, other) for one, other in edges if any(end == one for _, end in edges)}
        if left == edges:
            return True
        edges = left
    return False


def is_connected(successors, group):
    members, seen, waiting = set(group), {group[0]}, [group[0]]
    while waiting:
        node = waiting.pop()
        near = {other for other in members if other in successors[node] or node in successors[other]} - seen
        seen |= near
        waiting += near
    return seen == members


@given(graphs())
def test_partitions_run_one_after_another(graph):
    successors, taken = graph
    groups = convex_groups(successors, taken)
    assert sorted(node for group in groups for node in group) == sorted(taken)
    assert [group[0] for group in groups] == sorted(min(group) for group in groups)
    assert all(list(group) == sorted(group) for group in groups)
    assert not has_a_cycle(contracted(successors, groups))


@given(graphs())
def test_no_path_leaves_a_partition_and_comes_back(graph):
    successors, taken = graph
    for group in convex_groups(successors, taken):
        waiting = [other for node in group for other in successors[node] if other not in group]
        seen = set(waiting)
        while waiting:
            for other in successors[waiting.pop()]:
                assert other not in group
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)


@given(graphs())
def test_partitions_are_connected_and_no_two_neighbours_could_be_one(graph):
    successors, taken = graph
    groups = convex_groups(successors, taken)
    assert all(is_connected(successors, group) for group in groups)
    owner = {node: group for group in groups for node in group}
    edges = {(owner[node], owner[other]) for node in taken for other in successors[node] if other in taken}
    for one, other in (edge for edge in edges if edge[0] != edge[1]):
        joined = [group for group in groups if group not in (one, other)] + [tuple(sorted(one + other))]
        assert has_a_cycle(contracted(successors, joined))


@given(graphs())
def test_a_graph_that_is_taken_whole_is_cut_nowhere(graph):
    successors, _ = graph
    everything = set(range(len(successors)))
    groups = convex_groups(successors, everything)
    assert all(other in group for group in groups for node in group for other in successors[node])
