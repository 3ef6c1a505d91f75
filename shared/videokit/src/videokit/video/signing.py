"""C2PA manifests: a signature over a file's bytes, and over its inputs and seed.

A manifest is added only if the environment names a certificate and its key. c2pa-python is imported only then.
C2PA specification 2.2: https://spec.c2pa.org/specifications/specifications/2.2/specs/C2PA_Specification.html
"""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, TypeVar

from PIL import Image

from videokit.errors import SigningError
from videokit.files import atomic_write
from videokit.video.provenance import DIGITAL_SOURCE_TYPE, Provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    T = TypeVar("T")
    Job = tuple[Callable[[], None], SimpleQueue[BaseException | None]]

logger = logging.getLogger("videokit")

CERTIFICATE, PRIVATE_KEY, TIMESTAMP_URL = "C2PA_CERTIFICATE", "C2PA_PRIVATE_KEY", "C2PA_TIMESTAMP_URL"
PACKAGE = "c2pa-python==0.38.1"
ASSERTION = "videokit.provenance"  # the label of our own assertion
MEDIA_TYPES = {".gif": "image/gif", ".mp4": "video/mp4", ".png": "image/png"}
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}  # section 13.2.1 of the specification
# A thumbnail would decode every frame of a GIF, and add up to 75 kB. The signature is verified before the file is used.
SETTINGS = {"version": 1, "builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": True}}


class Signer:
    """Signs files with one certificate."""

    def __init__(self, certificate: Path, private_key: Path, timestamp_url: str | None = None) -> None:
        """Read both PEM files and sign a picture of one pixel, so that all that cannot sign raises SigningError here.

        The certificate's file has the certificates of its issuers after it. The timestamp comes from `timestamp_url`.
        """
        import c2pa
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key
        from cryptography.x509 import load_pem_x509_certificates as load_certificates

        leaf, *_ = chain = _read(CERTIFICATE, certificate, load_certificates, "a certificate")
        key = _read(PRIVATE_KEY, private_key, lambda text: load_key(text, None), "a private key without a password")
        if leaf.public_key() != key.public_key():
            raise SigningError(f"{PRIVATE_KEY}={private_key} does not belong to the first certificate of {certificate}")
        start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        if not start <= datetime.now(UTC) <= end:
            raise SigningError(f"{CERTIFICATE}={certificate} is valid from {start} to {end} only; renew it")
        certificates = b"".join(part.public_bytes(Encoding.PEM) for part in chain)
        key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        info = c2pa.C2paSignerInfo(_algorithm(key), certificates, key_text, timestamp_url)
        self._context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS), c2pa.Signer.from_info(info))
        # A cancel of Cog is an exception in the thread of the prediction. In a callback of c2pa it aborts the process.
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        Thread(target=_run_jobs, args=(self._jobs,), daemon=True).start()
        picture = io.BytesIO()
        Image.new("RGB", (1, 1)).save(picture, "PNG")
        self._sign(picture, io.BytesIO(), ".png", Provenance("trial", {}, 0, "videokit"))
        logger.info("signing: C2PA manifests by %s, valid until %s", leaf.subject.rfc4514_string(), end)

    @classmethod
    def from_environment(cls) -> Signer | None:
        """Return the signer of C2PA_CERTIFICATE and C2PA_PRIVATE_KEY, or None if neither is set; raise SigningError."""
        paths = [os.environ.get(name) for name in (CERTIFICATE, PRIVATE_KEY)]
        certificate, key = paths
        if not certificate and not key:
            return None
        if not certificate or not key:
            given, missing = (CERTIFICATE, PRIVATE_KEY) if certificate else (PRIVATE_KEY, CERTIFICATE)
            raise SigningError(f"{given} is set and {missing} is not; set both to the paths of PEM files, or neither")
        if find_spec("c2pa") is None:
            raise SigningError(f"{CERTIFICATE} is set, but c2pa-python is not installed: pip install {PACKAGE}")
        return cls(Path(certificate), Path(key), os.environ.get(TIMESTAMP_URL) or None)

    def sign(self, path: Path, provenance: Provenance) -> None:
        """Add a signed manifest to an MP4, GIF or PNG; after SigningError or a cancel the file is what it was."""
        with atomic_write(path) as part, path.open("rb") as source, part.open("w+b") as target:
            self._sign(source, target, path.suffix, provenance)

    def _sign(self, source: IO[bytes], target: IO[bytes], suffix: str, provenance: Provenance) -> None:
        import c2pa

        def sign() -> None:
            with c2pa.Builder(_manifest(provenance), self._context) as builder:
                builder.sign(MEDIA_TYPES[suffix], source, target)

        done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._jobs.put((sign, done))
        error = done.get()
        if isinstance(error, c2pa.C2paError):
            raise SigningError(f"no C2PA signature with {CERTIFICATE} and {PRIVATE_KEY}: {error}")
        if error is not None:
            raise error


def _run_jobs(jobs: SimpleQueue[Job]) -> None:
    while True:
        job, done = jobs.get()
        try:
            job()
        except BaseException as error:
            done.put(error)
        else:
            done.put(None)


def _manifest(provenance: Provenance) -> str:
    """Return the manifest as JSON; half a surrogate pair, which UTF-8 does not have, becomes a question mark."""
    name, _, version = provenance.software.partition(",")[0].rpartition(" ")
    action = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}
    manifest = {
        "claim_generator_info": [{"name": name or version, "version": version}],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [action]}},
            {"label": ASSERTION, "data": provenance.statement()},
        ],
    }
    return json.dumps(manifest, ensure_ascii=False).encode(errors="replace").decode()


def _read(name: str, path: Path, parse: Callable[[bytes], T], content: str) -> T:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise SigningError(f"{name}={path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: a password is missing
        raise SigningError(f"{name}={path} is not a PEM file of {content}") from None


def _algorithm(key: PrivateKeyTypes) -> str:
    """Return C2PA's name of the algorithm of a key; raise SigningError for a key of another kind."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise SigningError(f"{PRIVATE_KEY} has a key that C2PA does not allow; use P-256, P-384, P-521, Ed25519 or RSA")
