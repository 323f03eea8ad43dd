"""An HTTP server on loopback in a thread of this process, for the stand-ins of other servers."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Takes a request whole, answers with JSON, and writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *said):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer_json(self, status, value):
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@contextlib.contextmanager
def listening(handler):
    """Serve with a handler class on a free port, and give the address without a path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # The server looks so often whether it is to stop.
    often = {"poll_interval": 0.02}
    thread = threading.Thread(target=server.serve_forever, kwargs=often, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
