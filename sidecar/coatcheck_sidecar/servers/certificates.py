"""A certificate of one's own for the webhook, where there is no cert-manager.

An authority is made, signs one certificate and is forgotten: nobody can sign a second one, and a
renewal is a new pair of both, with the new bundle in the webhook's configuration.
"""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BUNDLE: Final = "ca.crt"
CHAIN: Final = "tls.crt"
KEY: Final = "tls.key"
"""Names as in secrets of the type kubernetes.io/tls, and as cert-manager writes them."""
DAYS: Final = 365
"""A year: longer than a cluster stays on one release."""
SKEW: Final = datetime.timedelta(minutes=5)
"""An API server whose clock is a little behind takes it too."""


def write_certificate(folder: Path, names: Sequence[str], *, now_ms: int) -> None:
    """Write `ca.crt`, `tls.crt` and `tls.key` for these DNS names; none of them is there yet.

    Raises `FileExistsError`, `OSError`, and `ImportError` without the extra `[webhook]`.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.fromtimestamp(now_ms / 1000, tz=datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = name("coatcheck webhook authority")

    def begun(subject: x509.Name, of: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(of)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + datetime.timedelta(days=DAYS))
        )

    bundle = (
        begun(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
    chain = (
        begun(name(names[0][:64]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / KEY, secret, mode=0o600)
    _write(folder / CHAIN, chain.public_bytes(pem), mode=0o644)
    _write(folder / BUNDLE, bundle.public_bytes(pem), mode=0o644)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
