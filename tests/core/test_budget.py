"""Rates, until something measures them."""

from coatcheck_sidecar.core.budget import ASSUMED, Rate


def test_what_is_assumed_is_slow_and_possible() -> None:
    assert Rate(bytes_per_s=1_000_000.0, latency_s=0.2) == ASSUMED
