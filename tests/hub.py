"""A small Hub for tests that push, on this machine."""

import http.server
import json
import re
import threading

import pytest


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a small push asks for. `private`: the repositories that there are. `full`: it takes no
    more files."""

    full = False
    private: dict[str, bool]
    posted: list[tuple[str, bytes]]

    def reply(self, status, body, **headers):
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        repository = re.sub("^/api/(datasets|models)/", "", self.path.partition("?")[0])
        if self.path.startswith("/api/whoami"):
            self.reply(200, {"name": "me", "type": "user", "orgs": []})
        elif repository in self.private:
            self.reply(200, {"id": repository, "private": self.private[repository], "siblings": []})
        else:
            self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, body))
        url = f"http://{self.headers['Host']}/{'' if '/models/' in self.path else 'datasets/'}me/new"
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            if wanted.get("type", "model") == "model":
                url = url.replace("datasets/", "")
            self.private["me/new"] = wanted.get("private") is True or wanted.get("visibility") == "private"
            self.reply(200, {"url": url})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.reply(200, {"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path and type(self).full:
            self.reply(403, {}, X_Error_Message="Private repository storage limit reached")
        elif "/commit/" in self.path:
            self.reply(200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"{url}/commit/{'1' * 40}"})
        else:
            self.reply(200, {"errors": [], "warnings": []})

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    handler = type("_Hub", (Hub,), {"private": {"me/public": False}, "posted": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
    }
    yield handler
    server.shutdown()
    server.server_close()
