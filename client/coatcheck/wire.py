"""Frames between client and sidecar: bytes in, frames out, and back. Pure; both sides share it.

The contract is `docs/protocol.md`. Nothing here reads a socket, a clock or a file.
"""

import struct
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgpack

PROTOCOL_VERSIONS: Final = (1, 1)
"""Lowest and highest version of the protocol that this code speaks."""
PART_BYTES_MAX: Final = 1_048_576
"""1 MiB: small enough that a push never waits long behind a big state."""
ATTACHED_BYTES_MAX: Final = 65_536
"""An attachment up to this rides in its message's own frame: one frame to read in place of two."""
FRAME_BYTES_MAX: Final = 1_114_112
"""A full part, and 64 KiB for the keys of a body (gRPC and Kafka bound a frame likewise)."""
STATE_BYTES_MAX: Final = 64 * 1_048_576
"""The default limit of one checkpoint; `hello` tells the sidecar's own."""
ATTACHMENT_BYTES_MAX: Final = STATE_BYTES_MAX + 16 * 1_048_576
"""What unfinished attachments of one connection may hold: a state, and results beside it."""
REQUESTS_MAX: Final = 1_024
"""Requests of one connection in flight; an agent with more calls at once waits in the client."""
ID_MAX: Final = 2**32 - 1
"""Ids are u32."""
PUSH_ID: Final = 0
"""The id of what the sidecar says unasked."""
PAGE_BYTES: Final = 4_096
"""A patch compares pages of this size: a change of a few bytes costs one page, a look 0.1 us."""
LOOK_BYTES: Final = 16 * PAGE_BYTES
"""Compared at once first: most of a state is as it was, and a look costs more than its bytes."""
PATCH_STATE_BYTES_MIN: Final = 8 * PAGE_BYTES
"""Below this a whole state is as quick as a patch."""
PATCH_RANGES_MAX: Final = 1_024
"""Keeps the body of a patch under 16 KiB; a state with more scattered changes goes whole."""
PATCH_SHARE_MAX: Final = 0.5
"""A patch of more than half the state saves too little to be worth its base."""

PART: Final = "part"
"""Type of a frame that carries a piece of an attachment."""

_LENGTH: Final = struct.Struct(">I")


# The values are the names in lower case, as StrEnum has it.
Request = StrEnum(
    "Request",
    "HELLO OPEN COMMIT CALL ETA OUTCOME PROBED RESOLVE UNDO WAIT FINISH FAIL RELEASE RESULT",
)
"""What a client asks."""
Reply = StrEnum("Reply", "OK ERROR")
"""What the sidecar answers."""
Push = StrEnum("Push", "DRAIN FENCED CHECKPOINT_PLEASE DEADLINE SIGNAL")
"""What the sidecar says unasked, with id 0."""
ErrorCode = StrEnum(
    "ErrorCode",
    "NOT_FOUND CONFLICT OWNED_ELSEWHERE IN_FLIGHT IN_DOUBT HELD REPLAY_DIVERGENCE PARKED DRAINING "
    "FENCED DEADLINE_EXCEEDED SCHEMA_MISMATCH TOO_LARGE DAMAGED STORE_UNAVAILABLE UNAVAILABLE "
    "PROTOCOL_ERROR",
)
"""The stable names of what can go wrong."""
Retry = StrEnum("Retry", "NEVER SAME_KEY LATER")
"""What a caller may do about an error."""


class Message(NamedTuple):
    """A request, reply or push with its attachment; `None` is not the same as an empty one.

    As a frame it has none yet if it comes in parts. `body` is a map with str keys, or bytes if
    `type` is `part`.
    """

    type: str
    id: int
    body: Any
    attachment: bytes | None = None


class Patch(NamedTuple):
    """What turns one state into the next: `data` holds the bytes of `ranges`, joined."""

    length: int
    ranges: list[tuple[int, int]]
    data: bytes


class WireError(Exception):
    """Bytes that are no frame. The connection can't go on after a bad frame.

    `frames` are those that came whole before the bad one, in the same `feed`.
    """

    frames: tuple[Message, ...] = ()


class AttachmentTooLarge(WireError):  # noqa: N818 - names what it is
    """A message's parts passed the limit and were dropped; the connection is still good."""

    def __init__(self, message: Message, *, limit_bytes: int) -> None:
        """Keep the message (without its attachment), so that it can be answered."""
        super().__init__(f"{message.type} {message.id} passes the limit of {limit_bytes} bytes")
        self.refused = message
        self.limit_bytes = limit_bytes


def encode_frame(  # noqa: PLR0917 - in the order of the frame
    type: str, id: int, body: dict[str, Any] | bytes | memoryview, attachment: Any = None
) -> bytes:
    """One frame as bytes. Raises `WireError` if it would pass `FRAME_BYTES_MAX`."""
    fields = (type, id, body) if attachment is None else (type, id, body, attachment)
    payload: bytes = msgpack.packb(fields)
    if len(payload) > FRAME_BYTES_MAX:
        raise WireError(f"{type} {id} has {len(payload)} bytes, a frame {FRAME_BYTES_MAX} at most")
    return _LENGTH.pack(len(payload)) + payload


def encode_message(  # noqa: PLR0917 - in the order of the message
    type: str, id: int, body: dict[str, Any], attachment: bytes | memoryview | None = None
) -> list[bytes]:
    """The frames of one message, in order: parts of at most `PART_BYTES_MAX`, then itself.

    An attachment up to `ATTACHED_BYTES_MAX` needs no parts.
    """
    if attachment is None or len(attachment) <= ATTACHED_BYTES_MAX:
        return [encode_frame(type, id, body, attachment)]
    view = memoryview(attachment)
    parts = range(0, len(view), PART_BYTES_MAX)
    frames = [encode_frame(PART, id, view[at : at + PART_BYTES_MAX]) for at in parts]
    return [*frames, encode_frame(type, id, body)]


class FrameReader:
    """Cuts a stream of bytes into frames, however it is chopped."""

    def __init__(self) -> None:
        """Begin at the start of a stream."""
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The frames that `data` completes. Raises `WireError`; then the stream is lost."""
        self._buffer += data
        frames: list[Message] = []
        at = 0
        try:
            with memoryview(self._buffer) as view:
                while len(view) - at >= _LENGTH.size:
                    length: int = _LENGTH.unpack_from(view, at)[0]
                    if not 0 < length <= FRAME_BYTES_MAX:
                        text = f"a frame says {length} bytes; 1 to {FRAME_BYTES_MAX} are legal"
                        raise WireError(text)  # noqa: TRY301 - those before it are told below
                    start, end = at + _LENGTH.size, at + _LENGTH.size + length
                    if end > len(view):
                        break
                    with view[start:end] as payload:
                        frames.append(_decode(payload))
                    at = end
        except WireError as error:
            error.frames = tuple(frames)
            raise
        del self._buffer[:at]
        return frames


def _decode(payload: memoryview) -> Message:
    """One frame's payload, checked."""
    try:
        # Maps inside a body may have integers for keys; anything hashable is let through here.
        fields = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, TypeError) as error:
        raise WireError(f"a frame is not msgpack: {error}") from None
    if not isinstance(fields, list) or len(fields) not in (3, 4):
        raise WireError("a frame is not an array of three or four: [type, id, body, attachment]")
    type_, id_, body, *attached = fields
    if type(type_) is not str:
        raise WireError("a frame's type is not a str")
    if type(id_) is not int or not 0 <= id_ <= ID_MAX:
        raise WireError(f"the id of a {type_:.40} frame is not an integer from 0 to {ID_MAX}")
    if type_ == PART:
        if type(body) is not bytes or not 0 < len(body) <= PART_BYTES_MAX or attached:
            raise WireError(f"part {id_} is not 1 to {PART_BYTES_MAX} bytes")
    elif type(body) is not dict or not all(type(key) is str for key in body):
        raise WireError(f"the body of {type_:.40} {id_} is not a map with str keys")
    elif attached and type(attached[0]) is not bytes:
        raise WireError(f"the attachment of {type_:.40} {id_} is not bytes")
    return Message(*fields)


class Assembler:
    """Joins the parts of each id with the message that follows them."""

    def __init__(self, *, bytes_max: int = ATTACHMENT_BYTES_MAX) -> None:
        """`bytes_max` bounds all attachments that are not complete, together."""
        self.bytes_max = bytes_max
        self._held_bytes = 0
        self._parts: dict[int, list[bytes] | None] = {}

    def add(self, frame: Message) -> Message | None:
        """The message that `frame` completes; `None` for a part.

        Raises `AttachmentTooLarge` in place of a message whose parts were dropped, `WireError`
        if parts of more ids come than requests may be in flight.
        """
        if frame.type == PART:
            self._hold(frame)
            return None
        parts = self._parts.pop(frame.id, [])
        if parts is None:
            raise AttachmentTooLarge(frame, limit_bytes=self.bytes_max)
        if not parts:
            return frame
        self._held_bytes -= sum(map(len, parts))
        if frame.attachment is not None:
            raise WireError(f"{frame.type:.40} {frame.id} has an attachment, and parts before it")
        return frame._replace(attachment=b"".join(parts))

    def _hold(self, part: Message) -> None:
        parts = self._parts.setdefault(part.id, [])
        if len(self._parts) > REQUESTS_MAX:
            raise WireError(f"parts of more than {REQUESTS_MAX} requests came, and no request")
        if parts is not None and self._held_bytes + len(part.body) > self.bytes_max:
            self._held_bytes -= sum(map(len, parts))
            self._parts[part.id] = None
        elif parts is not None:
            self._held_bytes += len(part.body)
            parts.append(part.body)


def make_patch(old: bytes, new: bytes) -> Patch | None:
    """What turns `old` into `new`; `None` if sending `new` whole is as good."""
    length, view = len(new), memoryview(new)
    # `startswith` at an offset is a memcmp without a copy; comparing two memoryviews is a loop.
    blocks = range(0, length, LOOK_BYTES)
    looks = (at for at in blocks if not old.startswith(view[at : at + LOOK_BYTES], at))
    pages = (at for look in looks for at in range(look, min(look + LOOK_BYTES, length), PAGE_BYTES))
    changed = [at for at in pages if not old.startswith(view[at : at + PAGE_BYTES], at)]
    if length < PATCH_STATE_BYTES_MIN or len(changed) * PAGE_BYTES > length * PATCH_SHARE_MAX:
        return None
    ranges: list[tuple[int, int]] = []
    for at in changed:
        start = ranges.pop()[0] if ranges and sum(ranges[-1]) == at else at
        ranges.append((start, min(at + PAGE_BYTES, length) - start))
    data = b"".join(view[at : at + size] for at, size in ranges)
    return Patch(length, ranges, data) if len(ranges) <= PATCH_RANGES_MAX else None
