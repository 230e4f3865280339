"""How an S3 store is reached: endpoint, region, credentials, style of request."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from obstore.store import S3Store

from coatcheck_sidecar.ports import Clock
from coatcheck_sidecar.stores.cloud import check_endpoint, client_options, first
from coatcheck_sidecar.stores.names import check_name
from coatcheck_sidecar.stores.objects import Limits, ObjectStore

if TYPE_CHECKING:
    from obstore.store import S3Config

BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ENDPOINT_KEYS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGION_KEYS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
REGION: Final = "us-east-1"
"""What look-alikes expect when nobody says."""


def open_s3(
    url: SplitResult,
    query: Mapping[str, str],
    *,
    environ: Mapping[str, str],
    clock: Clock,
    limits: Limits,
) -> ObjectStore:
    """Open `s3://bucket/prefix?endpoint=&region=&style=path|virtual`. Raises `ValueError`.

    What the query lacks is taken from `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`,
    `AWS_ALLOW_HTTP`; credentials from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    `AWS_SESSION_TOKEN`. Roles of pods and nodes are found by obstore in the process's environment.
    """
    bucket = url.netloc
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is no bucket name")
    prefix = url.path.strip("/")
    if prefix:
        check_name(prefix)
    endpoint = query.get("endpoint") or first(environ, ENDPOINT_KEYS)
    style = query.get("style") or ("path" if endpoint or "." in bucket else "virtual")
    if style not in ("path", "virtual"):
        raise ValueError(f"style={style!r} is neither path nor virtual")
    config: S3Config = {
        "region": query.get("region") or first(environ, REGION_KEYS) or REGION,
        "virtual_hosted_style_request": style == "virtual",
        "conditional_put": "etag",
        # One object at a time is what we delete, and not every look-alike has the bulk verb.
        "disable_bulk_delete": True,
    }
    if endpoint:
        check_endpoint(endpoint, "AWS", environ=environ)
        config["endpoint"] = _with_bucket(endpoint, bucket) if style == "virtual" else endpoint
    _add_credentials(config, environ)
    backend = S3Store(
        bucket,
        config=config,
        client_options=client_options(limits, allows_http=(endpoint or "").startswith("http:")),
        # A swap must never be sent twice; what may be repeated is repeated in `objects.py`.
        retry_config={"max_retries": 0},
    )
    return ObjectStore(
        backend,
        url=url.geturl(),
        prefix=f"{prefix}/" if prefix else "",
        clock=clock,
        limits=limits,
    )


def _add_credentials(config: "S3Config", environ: Mapping[str, str]) -> None:
    if "AWS_ACCESS_KEY_ID" in environ and "AWS_SECRET_ACCESS_KEY" in environ:
        config["access_key_id"] = environ["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = environ["AWS_SECRET_ACCESS_KEY"]
        if "AWS_SESSION_TOKEN" in environ:
            config["session_token"] = environ["AWS_SESSION_TOKEN"]


def _with_bucket(endpoint: str, bucket: str) -> str:
    """Write the bucket into it: obstore takes the endpoint of a virtual host whole."""
    parts = urlsplit(endpoint)
    if parts.netloc.startswith(f"{bucket}."):
        return endpoint
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
