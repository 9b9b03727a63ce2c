"""Run the command of the simulation with the settings of the reference application."""

import os
import sys

import django

# The drain and the client's back-off are of the product, and import models.
os.environ.setdefault("DEBUG", "true")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from benchmarks.simulation.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
