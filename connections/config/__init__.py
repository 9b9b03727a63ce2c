"""Read the configuration: one frozen object from YAML, settings and environment."""

from connections.config.loader import WebSocketConfig, describe, get_config, load

__all__ = ["WebSocketConfig", "describe", "get_config", "load"]
