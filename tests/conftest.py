import os

from hypothesis import settings

# The same examples in every run of CI: chance must not decide what lands.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")
