"""A certificate authority of a test's own, and whom it vouches for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from latentsync_ray.marking import Signing

__all__ = ["Chain", "make_chain"]

_EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Chain:
    certificates: Path
    key: Path
    authority: Path
    private: ec.EllipticCurvePrivateKey

    @property
    def signing(self) -> Signing:
        return Signing(certificates=str(self.certificates), key=str(self.key))

    def der(self, data: bytes) -> bytes:
        """A signature as key services give it."""
        return self.private.sign(data, ec.ECDSA(hashes.SHA256()))


def make_chain(folder: Path, *, name: str = "Test Studio", days: int = 9, usage: x509.ObjectIdentifier = _EMAIL) -> Chain:
    """An authority and a certificate of it for ``days``; below 0 it has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    above, mine = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Test Authority", above, "Test Authority", above)
    leaf = _certificate(name, mine, "Test Authority", above, days=days, usage=usage)
    chain = Chain(folder / "chain.pem", folder / "key.pem", folder / "authority.pem", mine)
    chain.certificates.write_bytes(leaf + root)
    chain.authority.write_bytes(root)
    chain.key.write_bytes(mine.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    days: int = 9,
    usage: x509.ObjectIdentifier = _EMAIL,
) -> bytes:
    now, is_root = dt.datetime.now(dt.UTC), key is signer
    usages = ("key_cert_sign", "crl_sign") if is_root else ("digital_signature",)
    built = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=20))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_root, None), critical=True)
        .add_extension(x509.KeyUsage(**{usage: usage in usages for usage in _USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_root:
        built = built.add_extension(x509.ExtendedKeyUsage([usage]), critical=usage == ExtendedKeyUsageOID.TIME_STAMPING)
    return built.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test House")]
    )
