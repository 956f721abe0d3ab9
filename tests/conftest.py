"""Hypothesis judges what code does, not how long a loaded machine takes for it."""

from hypothesis import HealthCheck, settings

settings.register_profile("asyncfl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("asyncfl")
