"""The configuration: TOML, environment and flags, or the same as Python mappings, to frozen values, strictly."""

from lllms_core.config.changes import changes, in_force
from lllms_core.config.key_file import open_keyring
from lllms_core.config.keyring import ApiKey, Keyring
from lllms_core.config.loading import load_config
from lllms_core.config.parsing import check_config, parse_config, with_model
from lllms_core.config.rules import NAME_RULE, is_model_name
from lllms_core.config.settings import Config, ModelConfig, PlacementConfig, PluginsConfig, ServerConfig, SessionsConfig

__all__ = [
    "NAME_RULE", "ApiKey", "Config", "Keyring", "ModelConfig", "PlacementConfig", "PluginsConfig", "ServerConfig",
    "SessionsConfig", "changes", "check_config", "in_force", "is_model_name", "load_config", "open_keyring",
    "parse_config", "with_model",
]
