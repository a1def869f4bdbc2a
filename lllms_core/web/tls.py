"""The server's certificate for HTTPS."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

from hypercorn.config import Config as HypercornConfig

from lllms_core.config import Config, ServerConfig
from lllms_core.errors import ConfigError
from lllms_core.host.reloads import Step
from lllms_core.machine import read_regular


def open_tls(server: ServerConfig) -> ssl.SSLContext | None:
    """Return the settings of HTTPS with a configuration's certificate; None if it has none.

    Raises `ConfigError` if a file cannot be read, or the two do not belong together.
    """
    certificate, key = server.tls_certificate, server.tls_key
    if certificate is None:
        return None
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        if file is not None:
            _check_readable(name, file)
    config = HypercornConfig()
    config.certfile, config.keyfile = str(certificate), str(key or certificate)
    config.keyfile_password = ""  # without any, OpenSSL would ask for it in the terminal
    try:
        return config.create_ssl_context()
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"server.tls_{_at_fault(certificate, key, error)}") from error


class Certificate:
    """The certificate of a server, which each new configuration may renew, also in the same files."""

    def __init__(self, server: ServerConfig) -> None:
        """Read the files. Raises `ConfigError`."""
        self._content = _content(server)  # before: if a file is replaced meanwhile, the next time is in vain at worst
        self.context = open_tls(server)

    @property
    def contexts(self) -> Callable[[], ssl.SSLContext] | None:
        """Returns the settings of the next connection; None: the server does not speak HTTPS."""
        return None if self.context is None else lambda: cast("ssl.SSLContext", self.context)

    def prepare(self, config: Config) -> Step:
        """Read the files of a new configuration, if the server speaks HTTPS. Raises `ConfigError`."""
        content = _content(config.server)
        context = open_tls(config.server)
        if context is None or self.context is None or content == self._content:
            return Step()

        def take() -> None:
            self.context, self._content = context, content

        return Step(take, ("server.tls_certificate",))


def _content(server: ServerConfig) -> list[bytes | None]:
    return [_bytes(file) for file in (server.tls_certificate, server.tls_key) if file is not None]


def _bytes(file: Path) -> bytes | None:
    try:
        return read_regular(file)
    except OSError:
        return None


def _at_fault(certificate: Path, key: Path | None, error: Exception) -> str:
    """Return the name of the key of the configuration whose file is wrong, and why; OpenSSL's own words rarely say."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return f"key: the private key in {key or certificate} does not belong to the certificate in {certificate}"
    try:
        context.load_verify_locations(certificate)
    except ssl.SSLError:
        return f"certificate: {certificate} holds no certificate in PEM form"
    text = (key or certificate).read_text(errors="replace")
    if "ENCRYPTED" in text:
        return f"key: the private key in {key or certificate} is encrypted; store it without a password"
    where = "; set server.tls_key to the file that does" if key is None else ""
    return f"key: {key or certificate} holds no private key in PEM form that fits the certificate{where}"


def _check_readable(name: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"server.{name}: {file} cannot be read: {error.strerror}") from error
