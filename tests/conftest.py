"""Settings for every test: hypothesis profiles.

The default profile tries the same examples every time, so that a failure is the change's and nobody else's.
``HYPOTHESIS_PROFILE=quick`` tries the first few of them; ``HYPOTHESIS_PROFILE=thorough`` many more, other ones at every run.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: a shared machine is slow at times, and a test that fails then says nothing about the code.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("default"), max_examples=30, stateful_step_count=30)
settings.register_profile(
    "thorough", deadline=None, max_examples=2500, stateful_step_count=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
