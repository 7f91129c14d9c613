"""The registry of every folder of plugins; see ``concepts.plugins``, which may not import this package."""

from concepts.plugins import PluginError, discover

__all__ = ["PluginError", "discover"]
