"""Files that are signed with a certificate of the test, and validated by the library's own reader."""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import c2pa
import pictures
import pytest
import torch
from certificates import Authority, Key, pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image
from programs import needs
from videokit.errors import SigningError
from videokit.prediction import PredictionRunner
from videokit.runtime import Device
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance
from videokit.video.signing import Signer

# https://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia
AI_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PROVENANCE = Provenance("a-model", {"prompt": 'a "red" circle é 🎈', "init_video": None}, 7, "a-model 1.2, v 0.1")
MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "png": "image/png"}
each_format = pytest.mark.parametrize("suffix", MEDIA_TYPES)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def set_up(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Signer | None]:
    """Return a function that writes a certificate and a key to files and sets up a signer by the environment."""
    directory = tmp_path_factory.mktemp("keys")

    def set_up(certificate: bytes, key: bytes, timestamp_url: str = "") -> Signer | None:
        for name, content in {"C2PA_CERTIFICATE": certificate, "C2PA_PRIVATE_KEY": key}.items():
            (directory / name).write_bytes(content)
            monkeypatch.setenv(name, str(directory / name))
        monkeypatch.setenv("C2PA_TIMESTAMP_URL", timestamp_url)
        return Signer.from_environment()

    return set_up


@pytest.fixture
def signer(authority: Authority, set_up: Callable[..., Signer]) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    return set_up(authority.issue(key), pem(key))


def write(path: Path, provenance: Provenance = PROVENANCE) -> Path:
    """Write a small file of the format of the path."""
    frames = list(pictures.gradient(4, 64, 64))
    if path.suffix == ".png":
        Image.fromarray(frames[0]).save(path)
    else:
        {".mp4": encode_mp4, ".gif": encode_gif}[path.suffix](frames, path, fps=8, provenance=provenance)
    return path


def read(content: bytes, suffix: str) -> tuple[str, dict[str, Any]]:
    """Return the library's verdict, and the manifest."""
    with c2pa.Reader(MEDIA_TYPES[suffix], io.BytesIO(content)) as reader:
        return str(reader.get_validation_state()), reader.get_active_manifest() or {}


def assertions(manifest: dict[str, Any]) -> dict[str, Any]:
    return {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}


@each_format
def test_a_signed_file_is_valid_and_states_who_made_it_and_from_what(
    signer: Signer, tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"clip.{suffix}")
    signer.sign(path, PROVENANCE)
    verdict, manifest = read(path.read_bytes(), suffix)
    assert verdict == "Valid"
    (generator,) = manifest["claim_generator_info"]
    assert (generator["name"], generator["version"]) == ("a-model", "1.2")
    assert assertions(manifest)["c2pa.actions.v2"]["actions"] == [
        {"action": "c2pa.created", "digitalSourceType": AI_MEDIA}
    ]
    assert assertions(manifest)["videokit.provenance"] == {
        "model": "a-model",
        "inputs": {"prompt": 'a "red" circle é 🎈', "init_video": None},
        "seed": 7,
        "software": "a-model 1.2, v 0.1",
    }
    assert manifest["signature_info"]["common_name"] == "A signer"
    assert [file.name for file in tmp_path.iterdir()] == [f"clip.{suffix}"]


@each_format
def test_a_changed_byte_is_found(signer: Signer, tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip.{suffix}")
    plain = path.read_bytes()
    signer.sign(path, PROVENANCE)
    signed = bytearray(path.read_bytes())
    tail = plain[len(plain) // 2 :][:40]  # of the pictures, which signing does not change
    at = bytes(signed).index(tail)
    assert read(bytes(signed), suffix)[0] == "Valid"
    signed[at] ^= 1
    assert read(bytes(signed), suffix)[0] == "Invalid"


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_the_frames_and_the_other_marks_of_a_signed_file_are_unchanged(
    signer: Signer, tmp_path: Path, suffix: str
) -> None:
    def facts(path: Path) -> tuple[bytes, dict[str, str]]:
        frames = subprocess.run(
            [needs("ffmpeg"), "-v", "error", "-xerror", "-i", path, "-f", "framemd5", "-"],
            check=True,
            capture_output=True,
        )
        assert frames.stderr == b""
        command = [needs("exiftool"), "-json", "-Comment", "-XMP:DigitalSourceType", "-XMP:CreatorTool", path]
        (tags,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return frames.stdout, tags

    path = write(tmp_path / f"clip.{suffix}")
    before = facts(path)
    assert before[1].keys() >= {"Comment", "DigitalSourceType", "CreatorTool"}
    size = path.stat().st_size
    signer.sign(path, PROVENANCE)
    assert facts(path) == before
    assert path.stat().st_size < size + 5000


def test_any_text_can_be_signed(signer: Signer, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.png")
    text = 'a "red" circle,\n\tmoving <right> & left \\ \0 \x7f é 漢字 🎈 \u2028'
    signer.sign(path, Provenance("m", {"prompt": text + "x" * 100_000, "half a pair": "\ud800"}, 1, "m 1"))
    verdict, manifest = read(path.read_bytes(), "png")
    assert verdict == "Valid"
    inputs = assertions(manifest)["videokit.provenance"]["inputs"]
    assert inputs == {"prompt": text + "x" * 100_000, "half a pair": "?"}


@pytest.mark.parametrize(
    "key",
    [
        lambda: pem(ec.generate_private_key(ec.SECP384R1())),
        lambda: pem(ec.generate_private_key(ec.SECP521R1()), PrivateFormat.TraditionalOpenSSL),
        lambda: pem(ed25519.Ed25519PrivateKey.generate()),
        lambda: pem(rsa.generate_private_key(65537, 2048)),
    ],
    ids=["P-384", "P-521", "Ed25519", "RSA"],
)
def test_every_kind_of_key_that_c2pa_allows_signs(
    authority: Authority, set_up: Callable[..., Signer], tmp_path: Path, key: Callable[[], bytes]
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = key()
    loaded = load_pem_private_key(text, None)
    assert isinstance(loaded, Key)
    path = write(tmp_path / "clip.png")
    set_up(authority.issue(loaded), text).sign(path, PROVENANCE)
    assert read(path.read_bytes(), "png")[0] == "Valid"


def test_nothing_is_signed_without_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("C2PA_CERTIFICATE", raising=False)
    monkeypatch.delenv("C2PA_PRIVATE_KEY", raising=False)
    monkeypatch.setenv("C2PA_TIMESTAMP_URL", "http://127.0.0.1:9")
    assert Signer.from_environment() is None


SECP256K1 = ec.generate_private_key(ec.SECP256K1())
P256 = ec.generate_private_key(ec.SECP256R1())
FAULTS: dict[str, tuple[Callable[[Authority], tuple[bytes, bytes]], str]] = {
    "a key of another certificate": (
        lambda authority: (authority.issue(P256), pem(ec.generate_private_key(ec.SECP256R1()))),
        "C2PA_PRIVATE_KEY=.* does not belong to the first certificate of",
    ),
    "an expired certificate": (
        lambda authority: (authority.issue(P256, days=(-10, -1)), pem(P256)),
        "C2PA_CERTIFICATE=.* is valid from .* to .* only; renew it",
    ),
    "a certificate of the future": (
        lambda authority: (authority.issue(P256, days=(1, 10)), pem(P256)),
        "C2PA_CERTIFICATE=.* is valid from",
    ),
    "a certificate that is not PEM": (lambda _: (b"text", pem(P256)), "is not a PEM file of a certificate"),
    "a key that is not PEM": (
        lambda authority: (authority.issue(P256), b"\0text"),
        "is not a PEM file of a private key without a password",
    ),
    "a key with a password": (
        lambda authority: (authority.issue(P256), pem(P256, encryption=BestAvailableEncryption(b"secret"))),
        "is not a PEM file of a private key without a password",
    ),
    "a key of a curve that C2PA does not allow": (
        lambda authority: (authority.issue(SECP256K1), pem(SECP256K1)),
        "use P-256, P-384, P-521, Ed25519 or RSA",
    ),
    "a certificate for web servers": (
        lambda authority: (authority.issue(P256, purpose=ExtendedKeyUsageOID.SERVER_AUTH), pem(P256)),
        "no C2PA signature with C2PA_CERTIFICATE and C2PA_PRIVATE_KEY: .*certificate is invalid",
    ),
    "an authority's own certificate": (
        lambda authority: (authority.certificate.public_bytes(Encoding.PEM), pem(authority.key)),
        "no C2PA signature with C2PA_CERTIFICATE and C2PA_PRIVATE_KEY: .*self-signed",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_certificate_or_key_that_cannot_sign_is_refused_at_set_up(
    authority: Authority, set_up: Callable[..., Signer], kind: str
) -> None:
    make, message = FAULTS[kind]
    with pytest.raises(SigningError, match=message):
        set_up(*make(authority))


def test_a_time_server_that_does_not_answer_is_refused_at_set_up(
    authority: Authority, set_up: Callable[..., Signer]
) -> None:
    with pytest.raises(SigningError, match=r"no C2PA signature .*http://127\.0\.0\.1:9/"):
        set_up(authority.issue(P256), pem(P256), "http://127.0.0.1:9/")


@pytest.mark.parametrize("name", ["C2PA_CERTIFICATE", "C2PA_PRIVATE_KEY"])
def test_one_variable_without_the_other_and_a_missing_file_are_refused(
    signer: Signer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "missing.pem"))
    with pytest.raises(SigningError, match=rf"{name}=.*missing\.pem cannot be read: No such file"):
        Signer.from_environment()
    monkeypatch.delenv(name)
    with pytest.raises(SigningError, match=f"is set and {name} is not; set both to the paths of PEM files, or neither"):
        Signer.from_environment()


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videokit.video.signing.find_spec", lambda name: None)
    with pytest.raises(SigningError, match=r"pip install c2pa-python==\d"):
        Signer.from_environment()


def test_a_file_that_cannot_be_signed_is_left_as_it_was(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(SigningError, match="no C2PA signature"):
        signer.sign(path, PROVENANCE)
    assert path.read_bytes() == b"not a video"
    assert list(tmp_path.iterdir()) == [path]


CANCELS = 100


# a cancel between `open` and `with` leaves the file to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cancel_at_any_moment_is_raised_and_leaves_the_whole_file(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    plain = write(path).read_bytes()
    delays: SimpleQueue[float] = SimpleQueue()
    cancelled: SimpleQueue[None] = SimpleQueue()

    def cancel(thread: int) -> None:
        for _ in range(CANCELS):
            time.sleep(delays.get())
            # as Cog's server cancels a prediction
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
            cancelled.put(None)

    threading.Thread(target=cancel, args=(threading.get_ident(),)).start()
    for number in range(CANCELS):
        path.write_bytes(plain)
        with pytest.raises(KeyboardInterrupt):
            delays.put(number / 5000)
            try:
                signer.sign(path, PROVENANCE)
            finally:
                cancelled.get()
        content = path.read_bytes()
        assert content == plain or read(content, "gif")[0] == "Valid"
    signer.sign(path, PROVENANCE)
    assert read(path.read_bytes(), "gif")[0] == "Valid"


class Runner:
    """A model that writes a clip and a picture."""

    def __init__(self) -> None:
        self.metrics: dict[str, object] = {}
        device = Device(torch.device("cpu"), torch.float32)
        self.runner = PredictionRunner("a-model", "1.2", device, advice="", record_metric=self.metrics.__setitem__)

    def predict(self) -> list[Path]:
        frames = list(pictures.gradient(3, 32, 16))
        with self.runner.start({"prompt": "a cat", "seed": None}, 7, "") as prediction:
            picture = prediction.write(frames[0], "frame.png", lambda frame, path, _: Image.fromarray(frame).save(path))
            clips = [prediction.encode(frames, f"clip.{suffix}", fps=8, seed=8) for suffix in ("mp4", "gif")]
        return [picture, *clips]


def test_every_file_of_a_prediction_is_signed_with_its_own_seed(signer: Signer) -> None:
    runner = Runner()
    for path, seed in zip(runner.predict(), [7, 8, 8], strict=True):
        verdict, manifest = read(path.read_bytes(), path.suffix[1:])
        assert verdict == "Valid"
        assert assertions(manifest)["videokit.provenance"]["seed"] == seed


def test_a_certificate_that_expires_later_fails_the_prediction_and_no_file_is_left(
    authority: Authority, set_up: Callable[..., Signer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    expiry = time.time() + 10  # after the set-up, also on a busy machine
    set_up(authority.issue(P256, days=(-1, 10 / 86400)), pem(P256))
    runner = Runner()
    time.sleep(max(0.0, expiry + 2 - time.time()))  # certificates have whole seconds
    with pytest.raises(SigningError, match="not valid at time of signing"):
        runner.predict()
    assert list(tmp_path.iterdir()) == []
    assert runner.metrics == {}


def test_a_certificate_that_cannot_sign_fails_the_set_up_of_a_model(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("C2PA_PRIVATE_KEY")
    with pytest.raises(SigningError, match="C2PA_PRIVATE_KEY is not"):
        Runner()
