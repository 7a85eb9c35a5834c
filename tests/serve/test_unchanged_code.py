"""The page's own examples, unchanged, against a server with https: only host and key come from the environment."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from serve_harness import SECRET, Running, make_settings, running

PYTHON = """
import fal_client

def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
           print(log["message"])

result = fal_client.subscribe(
    "fal-ai/latentsync",
    arguments={
        "video_url": "VIDEO",
        "audio_url": "AUDIO"
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)
"""
CURL = """
curl --silent --cacert $SSL_CERT_FILE --request POST \\
  --url https://$FAL_RUN_HOST/fal-ai/latentsync \\
  --header "Authorization: Key $FAL_KEY" \\
  --header "Content-Type: application/json" \\
  --data '{
     "video_url": "VIDEO",
     "audio_url": "AUDIO"
   }'
"""


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate for 127.0.0.1 with its key."""
    now = datetime.datetime.now(datetime.UTC)

    def sign(name: str, key: Any, issuer: str, signer: Any, *extensions: x509.ExtensionType) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(signer, hashes.SHA256())

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = sign("test CA", authority, "test CA", authority, x509.BasicConstraints(True, None), usage,
                x509.SubjectKeyIdentifier.from_public_key(authority.public_key()))  # fmt: skip
    leaf = sign("127.0.0.1", own, "test CA", authority, x509.BasicConstraints(False, None),
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()))  # fmt: skip
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A server with https, and the environment that leads clients to it."""
    folder = tmp_path_factory.mktemp("secure")
    authority, certificate, key = certificates(folder)
    with running(make_settings(folder / "data"), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as state:
        host = f"127.0.0.1:{state.port}"
        environment = {
            **os.environ,
            "FAL_KEY": SECRET,
            "FAL_RUN_HOST": host,
            "FAL_QUEUE_RUN_HOST": f"{host}/queue",
            "SSL_CERT_FILE": str(authority),
        }
        yield state, environment


def with_urls(example: str, state: Running) -> str:
    base = f"https://127.0.0.1:{state.port}/demo"
    return example.replace("VIDEO", f"{base}/demo.mp4").replace("AUDIO", f"{base}/demo.wav")


def playable(url: str, environment: dict[str, str], folder: Path) -> int:

    context = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
    (folder / "got.mp4").write_bytes(httpx.get(url, verify=context).content)
    with av.open(str(folder / "got.mp4")) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_python_example(secure: tuple[Running, dict[str, str]], tmp_path: Path) -> None:
    state, environment = secure
    done = subprocess.run(
        [sys.executable, "-c", with_urls(PYTHON, state)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *lines, result = done.stdout.strip().splitlines()
    assert any("frames" in line for line in lines)
    url = eval(result)["video"]["url"]
    assert url.startswith(f"https://127.0.0.1:{state.port}/files/")
    assert playable(url, environment, tmp_path) == 154


def test_the_curl_example(secure: tuple[Running, dict[str, str]], tmp_path: Path) -> None:
    state, environment = secure
    done = subprocess.run(["bash", "-c", with_urls(CURL, state)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    assert playable(json.loads(done.stdout)["video"]["url"], environment, tmp_path) == 154


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_upload_of_120_megabytes_in_parts(live: Running, fal: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(np.random.default_rng(1).bytes(120 * 10**6))
    url = fal.upload_file(path)
    with httpx.stream("GET", url) as answer:
        digest = hashlib.sha256()
        for block in answer.iter_bytes():
            digest.update(block)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert answer.headers["content-type"] == "video/mp4"
    assert not list((Path(live.server.settings.folder) / "_work" / "uploads").rglob("*")), "parts are gone"
