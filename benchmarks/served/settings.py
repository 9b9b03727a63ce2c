"""The project's own settings, with routes to measure and the layer that is named."""

import os

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = f"benchmarks.served.{os.environ['BENCHMARKS_SERVED']}.application"
CHANNEL_LAYERS = {"default": {"BACKEND": os.environ["BENCHMARKS_LAYER"]}}
