"""Places in a tree of JSON or TOML, and trees that differ in one of them."""

import copy

KINDS = {bool: "flag", int: "integer", float: "number", str: "text", list: "list", dict: "table", type(None): "null"}
OTHERS = (None, True, 7, 0.5, "x", [], {})
"""A value of every kind."""


def places(tree, path=()):
    """Every place in a tree, from the top: tuples of keys and indices."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(tree, path):
    """What is at a place."""
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree, path, value):
    """The tree with another value at a place, which may be a new key of a table; what is beside the place is shared."""
    if not path:
        return value
    changed = copy.copy(tree)
    inner = replaced(tree[path[0]], path[1:], value) if len(path) > 1 else value
    changed[path[0]] = inner
    return changed


def without(tree, path):
    """The tree without a key or an item."""
    table = copy.copy(at(tree, path[:-1]))
    del table[path[-1]]
    return replaced(tree, path[:-1], table)


def of_other_kinds(value):
    """A value of each kind that this one is not of; an integer is a number, too."""
    kind = KINDS[type(value)]
    taken = {kind, "integer"} if kind == "number" else {kind}
    return [other for other in OTHERS if KINDS[type(other)] not in taken]


def named(where, path):
    """How a message names the last key on the way to a place: the file, the keys before it, and itself in quotes."""
    last = max(index for index, key in enumerate(path) if isinstance(key, str))
    shown = where
    for key in path[:last]:
        shown += f": {key}" if isinstance(key, str) else f"[{key}]"
    return shown, repr(path[last])


def outcome(read, error):
    """The message of an error of this class that reading raises; "" where it raises none."""
    try:
        read()
    except error as caught:
        return str(caught)
    return ""


def faults_unnamed(tree, read, error, where, *, free=(), names=(), optional=(), mixed=(), null=True):
    """Drop every key of a tree, put a value of every other kind into every place; return what is not refused by name.

    Args:
        tree: that can be read; where it has null, nothing is tried.
        read: takes a tree.
        error: the class of what it is to raise.
        where: what it calls the file.
        free: places of tables whose content is somebody else's.
        names: places of tables whose keys are names, none of which has to be there.
        optional: keys that may be left out or null.
        mixed: keys of lists of integers and texts.
        null: whether the format has it.
    """
    unnamed = []
    for path in places(tree):
        if at(tree, path) is None or any(path[: len(place)] == place != path for place in free):
            continue
        changes = [(other, replaced(tree, path, other)) for other in of_other_kinds(at(tree, path))]
        changes = [change for change in changes if null or change[0] is not None]
        if isinstance(path[-1], str) and path[:-1] not in names:
            changes.append(("dropped", without(tree, path)))
        table, key = named(where, path)
        for change, changed in changes:
            if path[-1] in optional and change in (None, "dropped"):
                continue
            if len(path) > 1 and path[-2] in mixed and change in (7, "x"):
                continue
            message = outcome(lambda changed=changed: read(changed), error)
            spelled = key in message or f"{key[1:-1]}[" in message
            if not (message.startswith(f"{table}: ") and spelled and "expected" in message):
                unnamed.append((path, change, message))
    return unnamed


def unknown_unnamed(tree, read, error, where, *, free=(), names=()):
    """Add a key to every table of a tree, but for those of ``names``; return where it is not refused by name."""
    unnamed = []
    for path in [(), *(path for path in places(tree) if isinstance(at(tree, path), dict))]:
        if path in names or any(path[: len(place)] == place for place in free):
            continue
        table, _ = named(where, (*path, "novelty"))
        message = outcome(lambda path=path: read(replaced(tree, (*path, "novelty"), 1)), error)
        if not message.startswith(f"{table}: unknown key 'novelty'; known: "):
            unnamed.append((path, message))
    return unnamed
