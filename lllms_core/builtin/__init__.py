"""The core's own plugins, written like any other; `lllms_core.plugins` knows their names."""
