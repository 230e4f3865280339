"""Measurements, beside the floors and peers that they are compared with."""
