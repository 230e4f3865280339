"""What the sidecar and the wrapper of a stdio server say to each other, over one WebSocket.

The wrapper asks for each tool call of its agent. It is told to make it, and says what came of it,
or it is given the answer at once. The sidecar alone decides; a wrapper that is gone has lost the
answers of what it was told to make.

    wrapper                      sidecar
    CALL n, message        ->                       the agent's `tools/call`, as it came
                           <-    GO n               make it, and say what came
    CAME n, message        ->                       its response, as it came
    LOST n                 ->                       the server is gone, and had been told
    UNMADE n               ->                       it was gone before
                           <-    ANSWER n, message  for the agent: now it is recorded
    LISTED 0, message      ->                       a response to a `tools/list`
"""

from dataclasses import dataclass
from enum import StrEnum

import msgpack


class Kind(StrEnum):
    """The types of frames."""

    CALL = "call"
    GO = "go"
    CAME = "came"
    LOST = "lost"
    UNMADE = "unmade"
    ANSWER = "answer"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class Frame:
    """`number` is the wrapper's, one for each asking; `message` is JSON-RPC."""

    kind: Kind
    number: int
    message: bytes = b""


def encode(frame: Frame) -> bytes:
    """As it goes over the wire: one msgpack array."""
    packed: bytes = msgpack.packb([frame.kind.value, frame.number, frame.message])
    return packed


def decode(data: bytes) -> Frame:
    """Raises `ValueError` for what is no frame."""
    try:
        kind, number, message = msgpack.unpackb(data)
        frame = Frame(Kind(kind), number, message)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"no frame of the link: {error}") from None
    if type(number) is not int or type(message) is not bytes:
        raise ValueError("no frame of the link: a number and a message are missing")
    return frame
