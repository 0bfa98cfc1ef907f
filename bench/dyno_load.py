"""The client side of the rehearsal: what is sent to the web dyno."""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
import time
from typing import Any
from urllib.parse import quote


class Client:
    """Talks to the web dyno as its router does. Safe to use from several threads."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key

    def wait_for(self, path: str, seconds: float, process: subprocess.Popen[bytes]) -> None:
        """Returns when `path` answers 200. Raises TimeoutError, or RuntimeError at its end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with status {process.returncode}")
            try:
                if self._call("GET", path)[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass  # not bound yet
            time.sleep(0.02)
        raise TimeoutError(f"{path} did not answer 200 within {seconds} s")

    def search(self, photo: bytes) -> float:
        """Seconds that a search took; one that was refused for want of room is sent again."""
        began = time.monotonic()
        self._send("POST", "/v1/search", photo)
        return time.monotonic() - began

    def put(self, media_id: str, photo: bytes) -> None:
        """Indexes a photo."""
        self._send("PUT", f"/v1/collections/default/media/{quote(media_id, safe='')}", photo)

    def start_backfill(self) -> str:
        """The id of a started backfill."""
        body = json.dumps({"kind": "backfill"}).encode()
        status, answer = self._call("POST", "/v1/jobs", body, "application/json")
        if status != 202:
            raise RuntimeError(f"the backfill was answered {status} {answer.get('code')}")
        return str(answer["job_id"])

    def job(self, job: str) -> dict[str, Any]:
        """How far a job is."""
        return self._call("GET", f"/v1/jobs/{job}")[1]

    def wait_for_job(self, job: str, seconds: float) -> dict[str, Any]:
        """The job when it has succeeded. Raises RuntimeError when it has not, or not in time."""
        deadline = time.monotonic() + seconds
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            state = self._call("GET", f"/v1/jobs/{job}")[1]
            if state.get("state") == "succeeded":
                return state
            if state.get("state") in ("failed", "cancelled"):
                break
            time.sleep(0.25)
        raise RuntimeError(f"the backfill is {state.get('state')}: {state.get('last_error')}")

    def _send(self, method: str, path: str, photo: bytes) -> None:
        boundary = secrets.token_hex(16)
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode() + photo
        body += f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        deadline = time.monotonic() + 60
        while True:
            status, answer = self._call(method, path, body, kind)
            if status < 300 or answer.get("code") == "no_face":
                return
            if answer.get("code") != "busy" or time.monotonic() > deadline:
                raise RuntimeError(f"{method} was answered {status} {answer.get('code')}")
            time.sleep(0.2)

    def _call(
        self, method: str, path: str, body: bytes | None = None, kind: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
        if self._key:
            headers["X-API-Key"] = self._key
        if kind is not None:
            headers["Content-Type"] = kind
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=35)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}


def large_photo(photo: bytes) -> bytes:
    """The photo enlarged to 12 megapixels, as phones take them (4000 x 3000 JPEG)."""
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    large = cv2.resize(image, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    done, encoded = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    return encoded.tobytes()
