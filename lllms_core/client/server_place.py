"""Where a server is, and how it proves to be that one."""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import frozen

from lllms_core.client.server_error import ServerError

if TYPE_CHECKING:
    import httpx

UNIX = "unix:"


@frozen
class ServerPlace:
    """The place of a server, as the clients' connections need it."""

    address: str
    """Its URL, without /v1 at its end."""
    socket: str | None
    """The path of its Unix socket."""
    trust: ssl.SSLContext | bool
    """What it must prove; False: nothing, as it does not speak TLS."""

    def options(self, api_key: str | None, timeout: float) -> dict[str, Any]:
        """Return the arguments of a client of HTTPX, without its transport."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # The environment's proxies are for the internet; a server of one's own is not there.
        return {
            "base_url": self.address, "headers": headers, "timeout": timeout, "trust_env": False, "verify": self.trust,
        }

    def transport(self) -> "httpx.HTTPTransport | None":
        """Return the transport to a Unix socket; None for any other server."""
        import httpx

        return None if self.socket is None else httpx.HTTPTransport(uds=self.socket)

    def async_transport(self) -> "httpx.AsyncHTTPTransport | None":
        """Return the transport of an async client."""
        import httpx

        return None if self.socket is None else httpx.AsyncHTTPTransport(uds=self.socket)


def find_place(url: str, certificate: Path | None = None) -> ServerPlace:
    """Return the place that a URL, or `unix:PATH`, names.

    Of an HTTPS server with this `certificate` no other proof is needed. Raises `ServerError` for an invalid address or
    certificate.
    """
    if url.startswith(UNIX):
        return ServerPlace("http://localhost", url.removeprefix(UNIX), trust=False)
    address = server_address(url)
    return ServerPlace(address, None, _trust(certificate) if address.startswith("https:") else False)


def server_address(url: str) -> str:
    """Return the address of a server, without /v1 at its end. Raises `ServerError` if it is none."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError as error:
        raise ServerError(f"{url} is not a server address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ServerError(f"{url} is not a server address like http://127.0.0.1:3000")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/api")
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def _trust(certificate: Path | None) -> ssl.SSLContext:
    """Return the settings of HTTPS: the usual ones, or trust in this certificate only, under whichever name."""
    if certificate is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except OSError as error:
        raise ServerError(f"{certificate} holds no certificate that can be read") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its authority is not in the file
    return context
