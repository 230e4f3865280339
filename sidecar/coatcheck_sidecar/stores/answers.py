"""What an object store's unfriendly answer means: read from the text of obstore's exceptions.

obstore maps several answers to one exception (409 and 412 both to "already exists", a missing
bucket to "not found"), so the status and S3's own code decide.
"""

import re
from typing import Final

REASON_LENGTH_MAX: Final = 300
"""Of a message for a log line; S3's own fit."""

CONFLICT: Final = 409
"""S3: another conditional write of this object is under way. Nobody has lost yet."""

NO_PLACE: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})
"""No object can be there at all."""
REFUSALS: Final = frozenset(
    {(404, "NoSuchKey"), (404, "BlobNotFound"), (CONFLICT, "BlobAlreadyExists")}
)

_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})([^:\n]*)")
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")
_CAUSE: Final = re.compile(r'message: "([^"]*)"')
_MAY_PASS: Final = frozenset({408, CONFLICT, 425, 429})


def status_of(error: Exception) -> int | None:
    """The HTTP status that the store answered, or `None` if it answered nothing."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def is_missing(error: Exception) -> bool:
    """The object isn't there: not to be taken for a bucket that isn't there."""
    return _code_of(error) not in NO_PLACE


def is_refusal(error: Exception) -> bool:
    """The store looked, and the condition did not hold: 412, or If-Match on no object (404).

    Azure's answer to a create where something is has 409, and a code of its own.
    """
    status, code = status_of(error), _code_of(error)
    return status == 412 or (status, code) in REFUSALS


def is_lasting(error: Exception) -> bool:
    """The store would answer the same again: nothing to retry."""
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status not in _MAY_PASS


def reason_of(error: Exception) -> str:
    """Why, for people: status, code and message of the answer, or what kept it from coming.

    Only these parts are taken: an answer to a bad signature repeats the key's name.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error)
    if status := _STATUS.search(text):
        parts = [f"answered {status[1]}{status[2]}"]
        if status[1] == str(CONFLICT):
            parts.append("(conflict: another write is under way, try again)")
        parts += [found[1] for found in (_CODE.search(text), _MESSAGE.search(text)) if found]
        return " ".join(parts)[:REASON_LENGTH_MAX]
    if "/metadata/identity" in text:
        return "no credentials: AZURE_STORAGE_ACCOUNT_KEY is not set and no identity answers"
    if "/latest/api/token" in text or "/latest/meta-data" in text:
        return "no credentials: AWS_ACCESS_KEY_ID is not set and no metadata service answers"
    first, _, debug = text.partition("\n")
    said = first.rpartition(" - ")[2]
    causes = _CAUSE.findall(debug)
    return f"{said}{f' ({causes[-1]})' if causes else ''}"[:REASON_LENGTH_MAX]


def _code_of(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None
