"""A local web server that behaves as badly as asked."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server gives, and how.

    Attributes:
        files: Path to content.
        cut: Bytes after which each of the first answers breaks off, one a request.
        ranges: Whether parts are given.
        statuses: Answers with these statuses first, one a request.
        announced: Length that is announced instead of the true one.
        lengths: Whether a length is announced at all.
        shift: Bytes by which parts begin later than asked for.
        marks: Whether an ETag is given.
        requests: (path, Range header) of every request.
    """

    def __init__(self):
        self.files = {}
        self.cut = []
        self.ranges = True
        self.statuses = []
        self.announced = None
        self.lengths = True
        self.shift = 0
        self.marks = True
        self.requests = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        wanted = self.headers.get("Range")
        site.requests.append((self.path, wanted))
        self.close_connection = True
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        if self.path not in site.files:
            self.send_error(404)
            return
        content = site.files[self.path]
        mark = '"' + hashlib.md5(content).hexdigest() + '"'
        start = 0
        if wanted and site.ranges and self.headers.get("If-Range") in (None, mark):
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + site.shift
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.marks:
            self.send_header("ETag", mark)
        body = content[start:]
        if site.lengths:
            self.send_header("Content-Length", str(site.announced or len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: site.cut.pop(0)] if site.cut else body)


@contextmanager
def serving():
    """Serve on 127.0.0.1 while the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
