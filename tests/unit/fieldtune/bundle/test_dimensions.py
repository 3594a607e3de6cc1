from fieldtune.bundle.dimensions import dimension_sizes


def test_sizes_of_the_batch(graph):
    made = graph()
    ids = made.input("input_ids", "batch", "sequence", dtype="int64")
    out = made.add("Reshape", [ids], ("batch*sequence",))
    sizes = dimension_sizes(made.table(out), batch=3, sequence=7, rank=8)
    assert sizes == {"batch": 3, "sequence": 7, "past_sequence": 0, "total_sequence": 7, "rank": 8}


def test_what_only_data_decide_is_bounded_by_what_it_is_made_of(graph):
    """NonZero finds at most every element; one more than that is derived from it."""
    made = graph()
    labels = made.input("labels", "batch", "sequence", dtype="int64")
    found = made.add("NonZero", [labels], (2, "u0"), dtype="int64")
    out = made.add("Pad", [found], ("u0 + 1",))
    table = made.table(out)
    sizes = dimension_sizes(table, batch=3, sequence=7, rank=0)
    assert sizes["u0"] == 21


def test_a_size_that_nothing_bounds_is_one(graph):
    made = graph()
    out = made.add("Mystery", [made.input("x", "?")], ("u7",))
    assert dimension_sizes(made.table(out), batch=1, sequence=0, rank=0)["u7"] == 1
