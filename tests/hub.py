"""A stand-in for the Hugging Face Hub on loopback: it takes a repository and one commit."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was created and committed; `refuse` is the status that it answers with instead."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuse: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.tokens.add(self.headers["Authorization"])
                status, answer = hub.answer(self.path, body)
                self._send(status, answer)

            def do_GET(self) -> None:
                # The repository is empty.
                self._send(200, {"id": "me/detector", "sha": "0" * 40, "siblings": []})

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuse:
            return self.refuse, {"error": "told to refuse"}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/detector", "name": "me/detector"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in asked
                ]
            }
        if "/commit/" not in path:  # the card's YAML is sent to be checked first
            return 200, {"errors": [], "warnings": []}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files[entry["value"]["path"]] = content
        url = f"{self.url}/me/detector/commit/{'1' * 40}"
        return 200, {"commitUrl": url, "commitOid": "1" * 40, "success": True}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
