"""Connections to web servers: trusted certificates, proxies, and the meaning of failures."""

import ssl
from collections.abc import Mapping
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.downloads import shown
from lllms_core.errors import SourceUnavailable


def open_client(url: str, headers: Mapping[str, str], policy: RetryPolicy) -> httpx.AsyncClient:
    """Return a client for HTTP/1.1 and 2 that follows redirects and uses the proxies named by the environment.

    Raises `SourceUnavailable` for an invalid proxy.
    """
    timeout = httpx.Timeout(policy.stall, connect=policy.connect)
    said = {"User-Agent": "lllms", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    try:
        return httpx.AsyncClient(
            verify=_certificates(), http2=True, follow_redirects=True, timeout=timeout, headers=said,
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise SourceUnavailable(
            f"could not connect to {shown(url)}: {error}; check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY",
        ) from error


def told(error: httpx.TransportError, url: str) -> str:
    """Describe why a connection failed, and through which proxy."""
    reason = str(error) or type(error).__name__
    proxy = _proxy(url)
    return f"{reason}, through the proxy {shown(proxy)}" if proxy else reason


def is_distrust(error: BaseException | None) -> bool:
    """Whether a connection failed because of the server's certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _proxy(url: str) -> str:
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return "" if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]) else proxy


@cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates; read once, because that takes longer than fetching a small file."""
    return httpx.create_ssl_context()
