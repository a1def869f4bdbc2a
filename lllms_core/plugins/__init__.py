"""Plugins: found, inspected, and asked for what they provide."""

from lllms_core.plugins.registry import BUILTINS, CORE_DISTRIBUTION, PluginReport, Plugins, Provided

__all__ = ["BUILTINS", "CORE_DISTRIBUTION", "PluginReport", "Plugins", "Provided"]
