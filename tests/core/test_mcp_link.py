"""Frames survive the wire, and nothing else is taken for one."""

import msgpack
import pytest

from coatcheck_sidecar.core.mcp_link import Frame, Kind, decode, encode


@pytest.mark.parametrize("kind", Kind)
def test_a_frame_comes_back(kind: Kind) -> None:
    frame = Frame(kind, 7, b'{"id":1}')
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(3),
        msgpack.packb(["call", 1]),
        msgpack.packb(["other", 1, b""]),
        msgpack.packb([["call"], 1, b""]),
        msgpack.packb(["call", "1", b""]),
        msgpack.packb(["call", 1, "text"]),
        msgpack.packb(["call", 1, b""]) + b"\0",
    ],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        decode(data)
