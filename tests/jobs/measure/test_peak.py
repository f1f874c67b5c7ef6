from __future__ import annotations

import numpy as np

from jobs.measure.peak import _product, measure


def test_peaks_are_thousand_millions_of_operations_a_second():
    found = measure(threads=1, size=64, seconds=0.01)
    assert set(found) == {"fp32", "int8"}
    assert all(0.01 < peak < 1e6 for peak in found.values())


def test_what_is_timed_is_the_product():
    random = np.random.default_rng(0)
    a_MK, b_KN = random.integers(0, 255, (8, 4), dtype=np.uint8), random.integers(-127, 127, (4, 6), dtype=np.int8)
    np.testing.assert_array_equal(_product("MatMulInteger", a_MK, b_KN, 1)()[0], a_MK.astype(int) @ b_KN.astype(int))
    f_MK, f_KN = a_MK.astype(np.float32), b_KN.astype(np.float32)
    np.testing.assert_allclose(_product("MatMul", f_MK, f_KN, 1)()[0], f_MK @ f_KN)
