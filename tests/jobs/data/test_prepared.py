from __future__ import annotations

import numpy as np
import pytest

from jobs.data.prepared import Examples, Readings


@pytest.mark.parametrize(
    ("read", "unknown", "cut"),
    [
        (Readings(rows=0, tokens=0, unknown=0, cut=0), 0, 0),
        (Readings(rows=1, tokens=0, unknown=0, cut=1), 0, 1),
        (Readings(rows=1, tokens=1, unknown=1, cut=0), 1, 0),
        (Readings(rows=4, tokens=8, unknown=2, cut=3), 0.25, 0.75),
    ],
)
def test_shares_of_no_tokens_and_of_no_rows_are_0(read: Readings, unknown: float, cut: float):
    assert (read.unknown_share, read.cut_share) == (unknown, cut)


def test_what_is_to_be_generated_is_counted_row_by_row_where_a_row_has_none_too():
    types = np.array([0, 1, 1, 0, 0, 1], np.int8)
    given = Examples(np.arange(6, dtype=np.int32), types, np.array([0, 3, 3, 5, 6]), np.zeros(4, np.int64))
    assert given.lengths.tolist() == [3, 0, 2, 1]
    assert given.targets.tolist() == [2, 0, 0, 1]
    none = Examples(np.zeros(0, np.int32), np.zeros(0, np.int8), np.zeros(1, np.int64), np.zeros(0, np.int64))
    assert len(none) == 0 and none.targets.tolist() == none.lengths.tolist() == []
    assert Examples.joined(none, given, none).offsets.tolist() == given.offsets.tolist()
