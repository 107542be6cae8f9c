"""Configuration: the one reader of environment variables and of config.toml.

    environment   where the home, the socket and the hub cache are; what the caller brings along
    settings      every setting of an agent, with its unit, default and reason

The names of `environment` are here too: clients need them, and they are cheap to import.
"""

from p2pcache.config.environment import (
    ENVIRONMENT,
    TerminalOptions,
    caller_credentials,
    home,
    hub_cache_dir,
    is_of_registry,
    kubo_of_caller,
    ollama_models_dir,
    socket_path,
    terminal_options,
)

__all__ = [
    "ENVIRONMENT",
    "TerminalOptions",
    "caller_credentials",
    "home",
    "hub_cache_dir",
    "is_of_registry",
    "kubo_of_caller",
    "ollama_models_dir",
    "socket_path",
    "terminal_options",
]
