"""`python -m bench.fault_media FOLDER`: a CMS's listing and its pictures, as a process of its own.

Serves FOLDER/list.json at /list and FOLDER/<name> at /files/<name>. Line 1 of stdout is the port.
"""

from __future__ import annotations

import hashlib
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NAME = re.compile(r"/files/([a-z0-9-]+\.jpg)")


class Handler(BaseHTTPRequestHandler):
    """Answers with whole files and their ETag."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        """The listing, a picture, or 404."""
        path = self.path.split("?")[0]
        found = _NAME.fullmatch(path)
        name = "list.json" if path == "/list" else found[1] if found else ""
        file = self.folder / name
        data = file.read_bytes() if name and file.is_file() else b""
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        unchanged = bool(data) and self.headers.get("If-None-Match") == tag
        self.send_response(304 if unchanged else 200 if data else 404)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", "0" if unchanged else str(len(data)))
        self.end_headers()
        if not unchanged:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
