import pytest

from compress.measure.neighbours import ALONE_ERROR, LEAST_ERROR, Neighbour, estimate

# ratio = macs^0.5 · bytes^0.5 / 1000
CONVOLUTIONS = [
    Neighbour("Conv 3x3", macs, size, (macs * size) ** 0.5 / 1000)
    for macs in (10**5, 10**6, 10**7)
    for size in (10**4, 10**5)
]
SLOW = [Neighbour("Conv 7x7", 10**6, 10**5, 1000.0)]


def test_a_law_of_powers_is_found() -> None:
    ratio, error = estimate("Conv 3x3", 3 * 10**6, 3 * 10**4, [*CONVOLUTIONS, *SLOW])
    assert ratio == pytest.approx((3e6 * 3e4) ** 0.5 / 1000, rel=0.02)
    assert error == LEAST_ERROR


def test_without_enough_of_a_kind_the_operator_speaks_and_the_error_grows() -> None:
    ratio, error = estimate("Conv 7x7", 10**6, 10**5, [*CONVOLUTIONS, *SLOW])
    assert ratio > (1e6 * 1e5) ** 0.5 / 1000
    assert error > LEAST_ERROR


def test_one_kernel_is_better_than_none() -> None:
    ratio, error = estimate("Relu 1 in", 0, 10**4, SLOW)
    assert ratio == pytest.approx(1000.0)
    assert error == ALONE_ERROR
