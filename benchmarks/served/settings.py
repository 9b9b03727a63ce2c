"""Settings of the reference application with measured routes and a given layer."""

import os

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = f"benchmarks.served.{os.environ['BENCHMARKS_SERVED']}.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": os.environ["BENCHMARKS_LAYER"],
        "CONFIG": {"hosts": [REDIS_URL]} if REDIS_URL else {},  # noqa: F405
    }
}
