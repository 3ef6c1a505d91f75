"""Certificates that the tests issue for their own keys, and PEM files of keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Authority:
    """An authority that issues certificates, as the C2PA specification's section 14.5 requires them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        key_usage = dict.fromkeys(["key_cert_sign", "crl_sign"], True)
        self.certificate = self._issue(self.name, self.key, key_usage, is_authority=True)

    def issue(self, key: Key, days: tuple[float, float] = (-1, 30), purpose: x509.ObjectIdentifier = EMAIL) -> bytes:
        """Return the PEM of a certificate for `key`, valid between two days from now, and of the authority's own."""
        name = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, "A signer")]
        )
        usage = x509.ExtendedKeyUsage([purpose])
        leaf = self._issue(name, key, {"digital_signature": True}, usage, days=days)
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (leaf, self.certificate))

    def _issue(
        self,
        subject: x509.Name,
        key: Key,
        usage: dict[str, bool],
        *extensions: x509.ExtensionType,
        days: tuple[float, float] = (-30, 60),
        is_authority: bool = False,
    ) -> x509.Certificate:
        names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        start, end = (datetime.now(UTC) + timedelta(days=day) for day in days)
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number(), start, end)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.KeyUsage(**(dict.fromkeys(names, False) | usage)), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, hashes.SHA256())


def pem(
    key: Key, form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
