import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import StoreError
from coatcheck_sidecar.stores import s3
from coatcheck_sidecar.stores.objects import Limits
from coatcheck_sidecar.stores.url import open_store

CLOCK = SystemClock()


class SpyS3:
    """Stands where obstore's store would be made, to show what it is made of."""

    made: tuple[str, dict[str, object], dict[str, object]]

    def __init__(self, bucket: str, **options: dict[str, object]) -> None:
        type(self).made = (bucket, options["config"], options["client_options"])


async def config_of(
    url: str, monkeypatch: pytest.MonkeyPatch, *, environ: dict[str, str]
) -> tuple[str, dict[str, object], dict[str, object]]:
    monkeypatch.setattr(s3, "S3Store", SpyS3)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    s3.open_s3(parts, query, environ=environ, clock=CLOCK, limits=Limits())
    return SpyS3.made


async def test_a_directory(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space/store", clock=CLOCK)
    await store.put("a", b"x")
    assert (tmp_path / "with space/store/a").read_bytes() == b"x"
    assert store.url == f"file://{tmp_path}/with%20space/store"
    assert await store.now_ms() > 0
    await store.close()


async def test_memory_is_new_each_time() -> None:
    store = open_store("memory://", clock=CLOCK)
    await store.put("a", b"x")
    assert store.url == "memory://"
    assert await open_store("memory://", clock=CLOCK).get("a") is None


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("/var/lib/runs", "did you mean file:///var/lib/runs"),
        ("runs", "must begin with one of az://, file://, gs://, memory://, s3://"),
        ("ftp://host/runs", "must begin with one of"),
        ("file://var/lib", "write three slashes"),
        ("file:///", "absolute path of a folder"),
        ("file:///var?sync=no", "unknown setting sync after the .*; known: none"),
        ("s3://", "'' is no bucket name"),
        ("s3://UPPER/x", "'UPPER' is no bucket name"),
        ("s3://bucket/../x", "no object name"),
        ("s3://bucket?regoin=x", "unknown setting regoin after .*; known: endpoint, region, style"),
        ("s3://bucket/x#y", "fragment"),
        ("s3://bucket?style=odd", "neither path nor virtual"),
        ("s3://bucket?endpoint=host:9000", "is no http:// or https:// URL"),
        ("s3://bucket?endpoint=http://store.example:9000", "use https://, or set AWS_ALLOW_HTTP"),
        ("gs://UPPER/x", "'UPPER' is no bucket name"),
        ("gs://runs?region=x", "unknown setting region after .*; known: none"),
        ("az://runs/x", "whose container"),
        ("az://runs?account=UPPER", "'UPPER' is no storage account"),
        ("az://UPPER?account=mine", "'UPPER' is no name of a container"),
        ("az://a--b?account=mine", "is no name of a container"),
        ("az://runs/../x?account=mine", "no object name"),
        ("az://runs?account=mine&region=x", "unknown setting region .*; known: account, endpoint"),
        ("az://runs?account=mine&endpoint=host:9000", "is no http:// or https:// URL"),
        ("az://runs?account=mine&endpoint=http://far.example", "or set AZURE_ALLOW_HTTP"),
    ],
)
def test_a_wrong_url_names_itself_and_the_mend(url: str, mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        open_store(url, clock=CLOCK, environ={})
    assert str(caught.value).startswith(f"store {url}: ")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hush@bucket/x",
        "s3://bucket?endpoint=https://key:hush@store.example",
        "az://runs?account=mine&endpoint=https://key:hush@store.example",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        open_store(url, clock=CLOCK, environ={})
    assert "hush" not in str(caught.value)


async def test_amazon_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "half of a pair"}
    bucket, config, client = await config_of("s3://bucket/x/", monkeypatch, environ=environ)
    assert bucket == "bucket"
    assert config == {
        "region": "eu-central-1",
        "virtual_hosted_style_request": True,
        "conditional_put": "etag",
        "disable_bulk_delete": True,
    }
    assert client["allow_http"] is False


async def test_a_dot_in_a_bucket_fits_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    _, config, _ = await config_of("s3://my.bucket", monkeypatch, environ={})
    assert config["virtual_hosted_style_request"] is False


async def test_the_query_is_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {
        "AWS_ENDPOINT_URL": "https://other.example",
        "AWS_REGION": "other",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_SESSION_TOKEN": "token",
    }
    url = "s3://bucket?endpoint=http://127.0.0.1:9000&region=here"
    _, config, client = await config_of(url, monkeypatch, environ=environ)
    assert config["endpoint"] == "http://127.0.0.1:9000"
    assert config["region"] == "here"
    assert config["virtual_hosted_style_request"] is False
    assert (config["access_key_id"], config["session_token"]) == ("key", "token")
    assert client["allow_http"] is True


@pytest.mark.parametrize(
    ("endpoint", "virtual"),
    [
        ("https://store.example", "https://bucket.store.example"),
        ("https://bucket.store.example", "https://bucket.store.example"),
        ("http://localhost:9000", "http://bucket.localhost:9000"),
        ("http://store.lan:9000", "http://bucket.store.lan:9000"),
    ],
)
async def test_a_virtual_host(monkeypatch: pytest.MonkeyPatch, endpoint: str, virtual: str) -> None:
    environ = {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ALLOW_HTTP": "true"}
    _, config, _ = await config_of("s3://bucket?style=virtual", monkeypatch, environ=environ)
    assert config["endpoint"] == virtual
    assert config["virtual_hosted_style_request"] is True


async def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:1", clock=CLOCK, environ={})
    with pytest.raises(StoreError, match="no credentials: AWS_ACCESS_KEY_ID is not set"):
        await store.get("a")
    await store.close()


def test_a_directory_needs_no_library() -> None:
    code = (
        "import sys; from coatcheck_sidecar.stores.url import open_store\n"
        "from coatcheck_sidecar.clock import SystemClock\n"
        "open_store('memory://', clock=SystemClock())\n"
        "import coatcheck_sidecar.stores.directory\n"
        "sys.exit('obstore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
