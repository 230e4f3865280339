"""How a bucket of Google Cloud Storage is reached: by its XML API, by way of obstore."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult

from obstore.store import GCSStore

from coatcheck_sidecar.ports import Clock
from coatcheck_sidecar.stores.cloud import check_endpoint, client_options, first
from coatcheck_sidecar.stores.names import check_name
from coatcheck_sidecar.stores.objects import Limits, ObjectStore

if TYPE_CHECKING:
    from obstore.store import GCSConfig

BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
FILE_KEYS: Final = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT")
EMULATOR: Final = "STORAGE_EMULATOR_HOST"
"""Where Google's own clients find a stand-in, which wants no credentials."""
WRITES_APART_S: Final = 1.0
"""One object may be written once a second (cloud.google.com/storage/quotas#objects)."""


def open_gcs(
    url: SplitResult, *, environ: Mapping[str, str], clock: Clock, limits: Limits
) -> ObjectStore:
    """Open `gs://bucket/prefix`. Raises `ValueError`.

    A key file is taken from `GOOGLE_APPLICATION_CREDENTIALS`; without one obstore asks the metadata
    service of the node or, by workload identity, of the pod, and renews its tokens.
    """
    bucket = url.netloc
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is no bucket name")
    prefix = url.path.strip("/")
    if prefix:
        check_name(prefix)
    config: GCSConfig = {}
    if file := first(environ, FILE_KEYS):
        config["application_credentials"] = file
    if emulator := environ.get(EMULATOR):
        check_endpoint(emulator, "GOOGLE", environ=environ)
        anonymous = {"gcs_base_url": emulator, "disable_oauth": True}
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        config = {"service_account_key": json.dumps(anonymous | nobody)}
    backend = GCSStore(
        bucket,
        config=config,
        client_options=client_options(limits, allows_http=(emulator or "").startswith("http:")),
        # A swap must never be sent twice; what may be repeated is repeated in `objects.py`.
        retry_config={"max_retries": 0},
    )
    return ObjectStore(
        backend,
        url=url.geturl(),
        prefix=f"{prefix}/" if prefix else "",
        clock=clock,
        limits=limits,
        has_generations=True,
        writes_apart_s=WRITES_APART_S,
    )
