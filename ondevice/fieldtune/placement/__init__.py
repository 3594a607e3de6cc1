"""Where each part of a graph runs: planned from its node table, checked against the target, and reported."""
