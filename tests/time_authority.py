"""A service of a test's own that vouches for times, as RFC 3161 has it, by way of the openssl program."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from certificates import Chain, make_chain
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["time_authority"]

_SETTINGS = """[tsa]
default_tsa = ours
[ours]
serial = serial
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
signer_digest = sha256
ess_cert_id_alg = sha256
"""


@contextmanager
def time_authority(folder: Path) -> Iterator[tuple[str, Chain]]:
    """Its URL, and who it is."""
    chain = make_chain(folder, name="Test Clock", usage=ExtendedKeyUsageOID.TIME_STAMPING)
    (folder / "settings.cnf").write_text(_SETTINGS)
    (folder / "serial").write_text("01")

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            command = ["openssl", "ts", "-reply", "-config", "settings.cnf", "-queryfile", "query", "-signer", "chain.pem"]
            command += ["-inkey", "key.pem", "-chain", "authority.pem"]
            reply = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", chain
        server.shutdown()
