"""Spans of time as sets."""

from kparallel.trace.intervals import concurrent, length, union, within, without


def test_spans_are_sets():
    spans = union([(4, 6), (0, 2), (1, 3), (9, 9)])
    assert spans == [(0, 3), (4, 6)] and length(spans) == 5
    assert without(spans, [(1, 2), (5, 8)]) == [(0, 1), (2, 3), (4, 5)]
    assert within(spans, [(1, 2), (5, 8)]) == [(1, 2), (5, 6)]
    assert without(spans, []) == spans and within(spans, []) == []
    assert concurrent([(0, 4), (1, 2), (2, 3), (6, 7)], 2) == [(1, 3)]
