from fieldtune.preflight.sessions.arena import Arena, pattern_bytes
from fieldtune.preflight.sessions.buffers import BufferEvent

KIB = 1024


def events(text, **sizes):
    """``+a +b -a`` → events; a capital letter is a graph's output."""
    return tuple(
        BufferEvent(buffer=word[1:], size_bytes=sizes[word[1:]], taken=word[0] == "+", planned=not word[1:].isupper())
        for word in text.split()
    )


def written(text, extend="as-requested", **sizes):
    arena = Arena(extend)
    arena.run(events(text, **sizes))
    return arena.written_bytes


def test_sizes_are_rounded_up_to_256_bytes():
    assert written("+a -a +b -b", a=1, b=257) == 256 + 512


def test_a_free_chunk_is_taken_again_whole_or_split():
    assert written("+a -a +b -b", a=4 * KIB, b=3 * KIB) == 4 * KIB
    # Half of the chunk is left and serves the next one.
    assert written("+a -a +b +c -b -c", a=4 * KIB, b=2 * KIB, c=2 * KIB) == 4 * KIB
    # Less than half is left: it is wasted while the chunk is in use.
    assert written("+a -a +b +c -b -c", a=4 * KIB, b=3 * KIB, c=1 * KIB) == 5 * KIB


def test_the_smallest_chunk_that_is_large_enough_is_taken():
    text = "+a +b -a -b +c +d -c -d"
    assert written(text, a=8 * KIB, b=4 * KIB, c=4 * KIB, d=8 * KIB) == 12 * KIB


def test_neighbours_of_one_region_join_again():
    text = "+a -a +b +c -b -c +d -d"
    assert written(text, a=4 * KIB, b=2 * KIB, c=2 * KIB, d=4 * KIB) == 4 * KIB


def test_chunks_of_different_regions_do_not_join():
    assert written("+a +b -a -b +c -c", a=4 * KIB, b=4 * KIB, c=8 * KIB) == 16 * KIB


def test_regions_of_doubling_size_take_memory_where_they_are_written():
    """Two buffers of 400 KiB share the first region of 1 MiB, and only 800 KiB of it are ever written."""
    assert written("+a +b -a -b", "power-of-two", a=400 * KIB, b=400 * KIB) == 800 * KIB
    # 3 MiB do not fit any more: the next region has 4.
    assert written("+a +b +c -a -b -c", "power-of-two", a=400 * KIB, b=400 * KIB, c=3072 * KIB) == 3872 * KIB


def test_regions_of_doubling_size_serve_later_runs_that_need_more():
    arena = Arena("power-of-two")
    arena.run(events("+a -a", a=600 * KIB))
    arena.run(events("+b -b", b=1000 * KIB))
    assert arena.written_bytes == 1000 * KIB
    as_requested = Arena("as-requested")
    as_requested.run(events("+a -a", a=600 * KIB))
    as_requested.run(events("+b -b", b=1000 * KIB))
    assert as_requested.written_bytes == 1600 * KIB


def test_a_pattern_puts_what_never_meets_into_one_place():
    assert pattern_bytes(events("+a -a +b -b", a=300, b=200)) == 300
    assert pattern_bytes(events("+a +b -a -b", a=300, b=200)) == 500


def test_a_pattern_fills_the_gap_that_fits_best():
    sizes = {"a": 400, "b": 100, "c": 200, "d": 100, "e": 200}
    assert pattern_bytes(events("+a +b +c +d -a -c +e -b -d -e", **sizes)) == 800


def test_a_pattern_leaves_the_outputs_of_the_graph_out():
    assert pattern_bytes(events("+a +OUT -a -OUT", a=300, OUT=200)) == 300
