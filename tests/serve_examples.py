"""The page's examples as they stand there, and what a server with https needs for them to be used unchanged."""

from __future__ import annotations

import datetime
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import av
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from serve_harness import SECRET

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
JAVASCRIPT = """
import { fal } from "@fal-ai/client";

const result = await fal.subscribe("fal-ai/latentsync", {
  input: {
    video_url: "VIDEO",
    audio_url: "AUDIO"
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);
"""
JAVASCRIPT_HOST = 'fal.config({ proxyUrl: { url: "URL/api/fal/proxy", when: "always" } });'
"""What leads JavaScript's client to another host."""


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


def environment(folder: Path, port: int, base: dict[str, str]) -> dict[str, str]:
    """What leads clients to a server on this machine whose certificates are in ``folder``."""
    host = f"127.0.0.1:{port}"
    authority = str(folder / "ca.pem")
    return {
        **base,
        "FAL_KEY": SECRET,
        "FAL_RUN_HOST": host,
        "FAL_QUEUE_RUN_HOST": f"{host}/queue",
        "SSL_CERT_FILE": authority,
        "NODE_EXTRA_CA_CERTS": authority,
    }


def with_urls(example: str, port: int) -> str:
    """``example`` with the shipped clip and speech."""
    base = f"https://127.0.0.1:{port}/demo"
    known = {"VIDEO": f"{base}/demo.mp4", "AUDIO": f"{base}/demo.wav", "URL": base.removesuffix("/demo")}
    for name, url in known.items():
        example = example.replace(name, url)
    return example


def playable(url: str, folder: Path, target: Path) -> int:
    """Frames of the video at ``url``, which is written to ``target``."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    target.write_bytes(httpx.get(url, verify=context).content)
    with av.open(str(target)) as container:
        return sum(1 for _ in container.decode(video=0))
