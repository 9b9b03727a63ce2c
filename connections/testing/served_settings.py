"""
Settings of a server in a test: the project's settings on the test's databases.

LIVE_SERVER_SETTINGS names the project's module. LIVE_SERVER_DATABASES holds the
differences from DATABASES, by alias, as JSON.
"""

import importlib
import json
import os

_project = importlib.import_module(os.environ["LIVE_SERVER_SETTINGS"])
globals().update(
    {name: getattr(_project, name) for name in dir(_project) if name.isupper()}
)

ALLOWED_HOSTS = [*getattr(_project, "ALLOWED_HOSTS", ()), "127.0.0.1"]
_changed = json.loads(os.environ["LIVE_SERVER_DATABASES"])
DATABASES = {
    alias: {**one, **_changed.get(alias, {})}
    for alias, one in _project.DATABASES.items()
}
