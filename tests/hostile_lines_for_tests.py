"""Hostile HTTP/1.1: invalid lines, headers and framings, and paths that do not exist."""

import json
from collections.abc import Callable, Iterator, Sequence

from hostile_for_tests import BOT, CHAT, NAMED, POSTS, REFUSED, Input, body
from hostile_leaving_for_tests import leaves
from lines_for_tests import SECRET, Address, Answer, Line, chunked, head, raw, several

WIRE = {*REFUSED, 501, 505}
"""For bytes that are not HTTP, or an HTTP version that this server does not speak."""
GOOD = json.dumps(body(CHAT, BOT)).encode()
PLACES = (
    ("GET", "/api/v1/sessions/"), ("DELETE", "/api/v1/sessions/"), ("GET", "/api/v1/sessions?model="),
    ("DELETE", "/api/v1/sessions?model="), ("GET", "/api/v1/sessions/x?text="), ("GET", "/api/v1/sessions?"),
    ("DELETE", "/api/v1/downloads/"), ("GET", "/api/v1/requests/"), ("DELETE", "/api/v1/requests/"),
    ("GET", "/v1/models/"), ("GET", "/anthropic/v1/models/"),
    ("GET", "/anthropic/v1/models?after_id="), ("GET", "/v1/responses/"),
    ("DELETE", "/v1/responses/"), ("GET", "/v1/responses/resp_1/input_items?after="),
    ("POST", "/v1/responses/resp_1/cancel?"), ("GET", "/api/v1/chat/"), ("DELETE", "/api/v1/chat/"),
    ("GET", "/api/v1/conversations/"), ("DELETE", "/api/v1/conversations/"),
    ("GET", "/api/v0/models/"), ("GET", "/props?model="), ("GET", "/slots?model="),
    ("GET", "/health?model="),
)
"""Paths that contain an id or a name."""


def inputs() -> Iterator[Input]:
    """All hostile uses of HTTP/1.1."""
    yield from first_lines()
    yield from hosts()
    yield from headers()
    yield from framings()
    yield from upgrades()
    yield from paths()


def asks(*parts: bytes, method: str = "POST") -> Callable[[Address], list[Answer]]:
    """An action that sends these bytes."""
    return lambda address: raw(address, *parts, method=method)


# Held: h11 refuses all of this.
def first_lines() -> Iterator[Input]:
    """Requests with an invalid first line."""
    rest = b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    lines = {
        "no version": b"GET /", "version 3": b"GET / HTTP/3.0", "version 0.9": b"GET / HTTP/0.9",
        "version 1.2": b"GET / HTTP/1.2",
        "no path": b"GET HTTP/1.1", "two spaces": b"GET  /  HTTP/1.1", "spaces in the path": b"GET /a b c HTTP/1.1",
        "lower case": b"get / http/1.1", "a method of 5,000 letters": b"G" * 5000 + b" / HTTP/1.1",
        "a method with a NUL": b"G\0T / HTTP/1.1", "no method": b" / HTTP/1.1", "only spaces": b"   ",
        "TLS": b"\x16\x03\x01\x02\x00",
        "SSH": b"SSH-2.0-OpenSSH_9.6", "binary": bytes(range(256)), "a NUL in the path": b"GET /\0 HTTP/1.1",
        "8 bit in the path": b"GET /\xff\xfe HTTP/1.1", "a tab": b"GET\t/\tHTTP/1.1", "a bare CR": b"GET /\rX HTTP/1.1",
        "100,000 letters in the path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1", "Redis": b"*1\r\n$4\r\nPING",
        "SMTP": b"EHLO x",
        "a proxy's line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1", "a fragment": b"GET /#x HTTP/1.1",
    }
    for what, line in lines.items():
        yield Input(f"first line: {what}", asks(line + rest), {*WIRE, 200, 404}, may_end=True)
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "QUERY", "X", "OPTIONS", "HEAD", "PRI"):
        for path in ("/health", CHAT, "/", "/v1/models"):
            right = {200, 204, 400, 404, 405, 501}
            yield Input(
                f"{method} {path}", asks(head(method, path, length=0), method=method), right, may_end=method == "PRI",
            )
    yield Input("CONNECT", asks(head("CONNECT", "127.0.0.1:22", kind=None), method="GET"), WIRE, may_end=True)
    yield Input("OPTIONS *", asks(head("OPTIONS", "*", kind=None)), {*WIRE, 200, 204}, may_end=True)
    for target in ("http://evil.example/health", "http://localhost/health", "https://localhost/", "file:///etc/passwd",
                   "//evil.example/health", "http://", "http://[::1", "http://localhost:99999999/health", "://"):
        yield Input(f"the target {target}", asks(head("GET", target, kind=None)), {*WIRE, 200, 308}, may_end=True)


# Broke: a..b, . and long labels caused a 500, with the Authorization header in the log.
def hosts() -> Iterator[Input]:
    """Host headers of every shape, for routes, unknown paths and an upgrade."""
    names = (
        "a..b", ".", "..", "a.", ".a", "a" * 64, "a" * 63 + ".localhost", ".".join("a" * 65),
        "x." * 200 + "localhost", "a b",
        "a\tb", "", ":", ":80", "localhost:", "localhost:x", "localhost:-1", "localhost:99999999999", "[::1", "::1]",
        "[]",
        "[::1]:80", "[::ffff:1.2.3.4]", "[fe80::1%25eth0]", "evil.example", "localhost@evil.example", "localhost/evil",
        "localhost#", "localhost?", "user:pass@localhost", "\xe4.localhost", "xn--", "xn--a.localhost",
        "\xad.localhost",
        "localhost.evil.example", "0", "0x7f.1", "127.1", "2130706433", "1.2.3.4.5", "%6cocalhost", "*", "-", "_",
        "'", '"',
        "<script>", "a" * 8000, "localhost, evil.example", "\x01", "a\x7f", ".local", "local", "a..local", "x.local:80",
        "x.local.evil.example", "host.docker.internal", "internal", "-.internal", "a" * 64 + ".internal", "\xe4.local",
    )
    for number, name in enumerate(names):
        for method, path in (("GET", "/health"), ("POST", CHAT), ("GET", "/nowhere")):
            data = head(method, path, host=name, length=0)
            yield Input(
                f"Host {number} {name[:30]!r}: {method} {path}", asks(data, method=method), {*WIRE, 200}, may_end=True,
            )
    yield Input("no Host", asks(head("GET", "/health", host=None), method="GET"), {400, 200})
    yield Input("two Hosts", asks(head("GET", "/health", "Host: a..b"), method="GET"), {400, 403})
    yield Input("two equal Hosts", asks(head("GET", "/health", "Host: localhost"), method="GET"), {400, 200})
    old = b"GET /health HTTP/1.0\r\n\r\n"
    yield Input("HTTP/1.0 without a Host", asks(old, method="GET"), {200, *WIRE})


# Held: h11's limit of 16 KB refuses floods.
def headers() -> Iterator[Input]:
    """Headers that are too many, too long, or invalid."""
    lines = {
        "1,000": [f"X-{number}: y" for number in range(1000)], "50,000": [f"X-{n}: {'y' * 20}" for n in range(50_000)],
        "one of 1 MB": ["X: " + "y" * 1_000_000], "without a colon": ["nothing"], "without a name": [": x"],
        "with a space before the colon": ["X : y"], "folded": ["X: y", " z"], "NUL": ["X: \0"], "8 bit": ["X: \xff"],
        "8 bit in the name": ["\xff: x"], "a CR": ["X: a\rb"], "a bad date": ["If-Modified-Since: never"],
        "ranges": ["Range: bytes=" + ",".join(f"{n}-" for n in range(1000))],
        "a bad cookie": ["Cookie: " + "a=b;" * 1000 + "=;;="],
        "languages": ["Accept: " + ",".join(f"a/b;q={n}" for n in range(1000))],
        "q": ["Accept: text/html;q=x,*/*;q=1e999"],
        "forwarded": ["X-Forwarded-For: ' OR 1=1", "X-Forwarded-Host: a..b", "Forwarded: for=_x"],
        "origin": ["Origin: null"],
        "a bad key": ["Authorization: " + "Basic " + "\xff" * 100, "Authorization: Digest x"],
        "a proxy": ["Proxy-Connection: x"],
        "overrides": ["X-HTTP-Method-Override: DELETE", "X-Original-URL: /api/v1/sessions"],
        "a bad ETag": ['If-Match: "'],
    }
    for what, extra in lines.items():
        for method, path, data in (("GET", "/", b""), ("POST", CHAT, GOOD)):
            told = head(method, path, *extra, length=len(data))
            yield Input(f"headers: {what}, {method}", asks(told, data, method=method), {*WIRE, 200}, may_end=True)
    yield Input("headers that do not end", half_closed(head()[:-2] + b"X: y"), {*WIRE}, may_end=True)
    for told in ("100-continue", "200-ok", "100-Continue, x", ""):
        data = head("POST", CHAT, f"Expect: {told}", length=len(GOOD))
        yield Input(f"Expect: {told}", asks(data, GOOD), {200, 417, *WIRE})
    for told in ("close, keep-alive", "x", "upgrade", "Host", "close, Content-Length"):
        data = head("POST", CHAT, f"Connection: {told}", length=len(GOOD))
        yield Input(f"Connection: {told}", asks(data, GOOD), {200, *WIRE})


# Broke: an unfinished chunked body was processed after its client had given up.
def framings() -> Iterator[Input]:
    """Bodies with a false length."""
    te = "Transfer-Encoding: chunked"
    bodies = {
        "right": chunked([GOOD]), "byte by byte": chunked([GOOD[n : n + 1] for n in range(len(GOOD))]),
        "no size": b"\r\n",
        "a size that is none": b"xyz\r\n", "a negative size": b"-1\r\n", "a huge size": b"f" * 16 + b"\r\nx",
        "a size of 100,000 digits": b"0" * 100_000 + b"1\r\n",
        "a long extension": b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n",
        "a chunk that is longer": b"1\r\nabc\r\n0\r\n\r\n", "trailers": chunked([GOOD], end=b"0\r\nHost: a..b\r\n\r\n"),
        "many trailers": chunked([GOOD], end=b"0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n"),
        "bare line feeds": b"1\nx\n0\n\n",
        "a plus": b"+1\r\na\r\n0\r\n\r\n", "0x": b"0x1\r\na\r\n0\r\n\r\n",
    }
    for what, data in bodies.items():
        right = what in {"right", "byte by byte"}
        act = asks(head("POST", CHAT, te), data) if right else half_closed(head("POST", CHAT, te), data)
        yield Input(f"chunked: {what}", act, {200} if right else {200, *WIRE}, may_end=not right)
    ends = {"FIN": Line.half_close, "RST": Line.reset}
    for how, end in ends.items():
        yield Input(
            f"chunked without an end, {how}", leaves(head("POST", CHAT, te), b"5\r\nabc", end=end), may_end=True,
        )
        yield Input(f"chunked, not even begun, {how}", leaves(head("POST", CHAT, te), end=end), may_end=True)
    yield Input("chunked, given up in its middle", half_closed(head("POST", CHAT, te), b"5\r\nabc"), may_end=True)
    length = f"Content-Length: {len(GOOD)}"
    both = {
        "both": [te, length], "both, the other way": [length, te], "two lengths": [length, "Content-Length: 0"],
        "equal": [length, length],
        "a list": [f"{length}, {len(GOOD)}"], "negative": ["Content-Length: -1"],
        "a plus": [f"Content-Length: +{len(GOOD)}"],
        "hexadecimal": ["Content-Length: 0x10"], "10**30": ["Content-Length: " + "9" * 30],
        "words": ["Content-Length: many"],
        "10**5000": ["Content-Length: " + "9" * 5000], "empty": ["Content-Length: "],
        "identity": ["Transfer-Encoding: identity"],
        "gzip, chunked": ["Transfer-Encoding: gzip, chunked"], "chunked twice": [te, te],
        "xchunked": ["Transfer-Encoding: xchunked"],
        "a tab": ["Transfer-Encoding:\tchunked"], "superscript": ["Content-Length: \xb2"], "neither": [],
    }
    for what, extra in both.items():
        yield Input(f"length: {what}", half_closed(head("POST", CHAT, *extra), GOOD), {200, *WIRE}, may_end=True)
    yield Input(
        "a length above the body", half_closed(head("POST", CHAT, length=len(GOOD) + 1), GOOD), {200, *WIRE},
        may_end=True,
    )
    yield Input("a length below the body", asks(head("POST", CHAT, length=5), GOOD), WIRE)
    yield Input("a length of 1 GB", leaves(head("POST", CHAT, length=10**9), b"x" * 1000), may_end=True)
    one = head("POST", CHAT, length=len(GOOD)) + GOOD
    last = head("GET", "/health", kind=None, close=True)
    yield Input("50 requests at once", lambda address: several(address, one * 50 + last), {200, *WIRE})
    yield Input(
        "50 wrong ones at once",
        lambda address: several(address, (head("POST", CHAT, length=1) + b"x") * 50 + last), {200, *WIRE},
    )
    smuggled = chunked([GOOD]) + b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield Input(
        "one inside another", lambda address: several(address, head("POST", CHAT, length, te, close=True) + smuggled),
        {200, *WIRE}, may_end=True,
    )
    yield Input(
        "line breaks before it", asks(b"\r\n" * 5 + head("GET", "/health"), method="GET"), {200, *WIRE}, may_end=True,
    )
    yield Input("line breaks for ever", half_closed(b"\r\n" * 100_000), may_end=True)
    yield Input(
        "a body for GET", asks(head("GET", "/health", length=10**6), b"x" * 10**6, method="GET"), {200, *WIRE},
        may_end=True,
    )


# Broke: a WebSocket on a POST route caused a 500 and 50 KB of traceback.
def upgrades() -> Iterator[Input]:
    """Upgrades to other protocols."""
    key = (
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
    for path in (*POSTS, "/", "/health", "/v1/models", "/nowhere", "/api/v1/sessions", "/%00"):
        yield Input(
            f"WebSocket {path}", asks(head("GET", path, *key, kind=None), method="GET"), WIRE,
            may_end=True,
        )
    shapes = {
        "no key": key[:2], "another version": (*key[:3], "Sec-WebSocket-Version: 99"),
        "a bad key": (*key[:2], "Sec-WebSocket-Key: x", key[3]),
        "extensions": (*key, "Sec-WebSocket-Extensions: permessage-deflate; x=" + "y" * 1000),
        "protocols": (*key, "Sec-WebSocket-Protocol: ,,"),
        "a..b": (*key, "Host: a..b"),
    }
    for what, extra in shapes.items():
        yield Input(
            f"WebSocket: {what}", asks(head("GET", "/", *extra, kind=None), method="GET"), {200, *WIRE},
            may_end=True,
        )
    yield Input(
        "WebSocket with POST", asks(head("POST", CHAT, *key, length=len(GOOD)), GOOD), {200, *WIRE},
        may_end=True,
    )
    for settings in ("", "x", "AAMAAABkAAQAAP__", "\xff", "A" * 5000):
        extra = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", f"HTTP2-Settings: {settings}")
        data = head("GET", "/health", *extra, kind=None)
        yield Input(f"h2c with settings {settings[:10]!r}", upgraded(data), {101, 200, *WIRE}, may_end=True)
        data = head("POST", CHAT, *extra, length=len(GOOD))
        yield Input(
            f"h2c with settings {settings[:10]!r} and a body", upgraded(data, GOOD), {101, 200, *WIRE}, may_end=True,
        )
    yield Input(
        "TLS/1.0", asks(head("GET", "/health", "Upgrade: TLS/1.0", "Connection: Upgrade", kind=None), method="GET"),
        {200, *WIRE},
    )


# Held: only routes are found.
def paths() -> Iterator[Input]:
    """Paths that do not exist, and ids and names with nasty characters."""
    tricks = (
        "//", "///health", "/health/", "/./health", "/v1/../health", "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/a%00b",
        "/%ff%fe", "/%", "/%zz", "/%u0041", "/;x=y", "/health;x", "/health%20", "/HEALTH", "/health?x", "/?x=%00",
        "/?" + "x" * 8000,
        "/" + "a" * 8000, "/" + "a/" * 4000, "/?" + "&".join(f"a{n}=b" for n in range(1000)), "/?a[b][c]=d",
        "/openapi.json/x",
        "/static/../lllms_core/app.py", "/.env", "/v1", "/v1/", "/openai/v1/models", "/\\", "/v1/models/", "/api/v1/",
        "/?\xff", "/%F0%9F%98%80", "/v1/models" + "/" * 8000, "/" * 8000 + "v1/models", "/%2f%2fhealth%2f", "/v1//%00/",
        "//evil.example/v1/models", "/v1/v1/{base}", "/v1/v1/{0.__class__}%s", "/api/chat%0a", "/v1/v1/" + "v1/" * 2000,
        "/v1/messages/" + "x" * 8000, "/v1/responses/%E2%80%AE", "/models/'%22", "/openai/deployments/<script>/x",
    )
    for path in tricks:
        yield Input(f"path {path[:40]!r}", asks(head("GET", path, kind=None), method="GET"), {200, 301, 308, *WIRE})
    ids = (
        "%00", "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a" * 6000, "%ff", "%0d%0aX:%20y", "'%20OR%201", "%F0%9F%98%80",
        "*", "-1", "null", "%3Cscript%3E", "{{7*7}}", "%25s", "~", "con", ".session", "%E2%80%AE", SECRET,
    )
    for method, path in PLACES:
        for one in ids:
            act = asks(head(method, path + one, kind=None), method=method)
            yield Input(f"{method} {path} {one[:20]}", act, REFUSED)
    for path in [one for one in NAMED if "{name}" in one]:
        for one in (*ids, f"{BOT}/x", f"{BOT}%00"):
            act = asks(head("POST", path.format(name=one), length=2), b"{}")
            yield Input(f"POST {path.format(name=one[:20])}", act, REFUSED)
    plain = (
        "/", "/health", "/openapi.json", "/v1/models", "/api/v1/sessions", "/api/v1/downloads", "/api/v1/requests",
        "/api/v1/config", "/api/v1/conversations", "/api/v1/client.js", "/api/v1/react.js",
    )
    for path in plain:
        act = asks(head("GET", f"{path}?text=1&model={BOT}&x={SECRET}", kind=None), method="GET")
        yield Input(f"GET {path} with anything", act, {200, *REFUSED})


    for what in ("x", "-1", "chat_1-0", "a" * 6000, "\xff", "chat_1-99999999999999999999", ""):
        act = asks(head("GET", "/api/v1/chat/chat_1", f"Last-Event-ID: {what}", kind=None), method="GET")
        yield Input(f"Last-Event-ID {what[:20]!r}", act, WIRE)


def half_closed(*parts: bytes) -> Callable[[Address], Sequence[Answer]]:
    """An action that sends these bytes, half-closes the connection, and waits for an answer or the end."""

    def act(address: Address) -> Sequence[Answer]:
        with Line(address) as line:
            line.send(*parts).half_close()
            answer = line.answer()
        return [] if answer is None else [answer]

    return act


def upgraded(*parts: bytes) -> Callable[[Address], Sequence[Answer]]:
    """An action that asks for an upgrade to HTTP/2, and reads only the head of the first answer."""

    def act(address: Address) -> Sequence[Answer]:
        with Line(address) as line:
            got = line.send(*parts).socket.recv(4096)
        return [Answer(int(got[9:12]))] if got else []

    return act
