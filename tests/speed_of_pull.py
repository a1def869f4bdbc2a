# ruff: noqa: T201  # a program that prints
"""Not a test: compares a `pull` of 1 GiB from loopback with `curl` followed by `sha256sum`, taking turns in one run.

    python tests/speed_of_pull.py [MiB]

Prints the ratio with its target, 1.3, and the peak memory of `pull` with its target, 100 MiB. Needs curl, and room for
three such files in the folder for temporary files.
"""

import contextlib
import http.server
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROUNDS = 3
PEAK = """
import resource, runpy, sys
sys.argv[0] = 'lllms'
try:
    runpy.run_module('lllms_core', run_name='__main__')
finally:
    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


class Files(http.server.BaseHTTPRequestHandler):
    """Sends one file, whole or in parts, with `sendfile`."""

    protocol_version = "HTTP/1.1"
    file: Path

    def do_GET(self) -> None:
        """Send the file or the requested range."""
        size = self.file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(size, int(asked[2] or size) + 1)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with self.file.open("rb") as source, contextlib.suppress(ConnectionError):
            while start < stop:
                start += os.sendfile(self.connection.fileno(), source.fileno(), start, stop - start)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(file: Path) -> Iterator[str]:
    """Serve a file from a separate process, so that its work does not slow down the clients."""
    command = [sys.executable, __file__, "serve", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/model.bin"
        finally:
            server.kill()


def serve(file: Path) -> None:
    """Serve a file until killed, and print the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Files,), {"file": file})) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def timed(*command: str, **environ: str) -> tuple[float, str]:
    """Run a command; return the seconds it took and its stderr."""
    begin = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    return time.monotonic() - begin, done.stderr


def main() -> None:
    """Measure and print."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.bin"
        with source.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(2**20))
        ratios, peaks = [], []
        with served(source) as url:
            for turn in range(ROUNDS):
                curl, _ = timed("curl", "-sS", "-o", str(folder / "curl.bin"), url)
                digest, _ = timed("sha256sum", str(folder / "curl.bin"))
                (folder / "curl.bin").unlink()
                models = folder / f"models{turn}"
                pull, told = timed(sys.executable, "-c", PEAK, "pull", url, LLLMS_MODELS_DIR=str(models))
                subprocess.run(["rm", "-r", str(models)], check=True)
                ratios.append(pull / (curl + digest))
                peaks.append(int(re.findall(r"peak (\d+)", told)[0]) / 1024)
                print(f"curl {curl:.2f} s, sha256sum {digest:.2f} s, pull {pull:.2f} s: {ratios[-1]:.2f}")
        print(f"ratio {sorted(ratios)[ROUNDS // 2]:.2f} (target: at most 1.3)")
        print(f"memory {max(peaks):.0f} MiB (target: under 100)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]))
    else:
        main()
