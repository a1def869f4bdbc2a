"""`lllms health`, as the health check of a container runs it."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from serving_for_tests import serving

from lllms_core.cli import cli

pytestmark = pytest.mark.slow


async def health(*arguments: str) -> Result:
    """Run the command while the server of the test goes on."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ["health", *arguments], prog_name="lllms")


async def test_health_needs_no_key_and_finds_the_configured_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server with keys at all addresses is asked by the variables with which it was started, without a key."""
    monkeypatch.chdir(tmp_path)
    async with serving({"server": {"host": "0.0.0.0", "port": 0, "api_keys": ["sk-secret"]}}) as url:
        monkeypatch.setenv("LLLMS_HOST", "0.0.0.0")
        monkeypatch.setenv("LLLMS_API_KEYS", "sk-secret")
        monkeypatch.setenv("LLLMS_PORT", url.rpartition(":")[2])
        result = await health()
    assert (result.exit_code, result.stdout) == (0, "ok\n")
    result = await health()
    assert result.exit_code == 1
    assert "0.0.0.0" in result.stderr
