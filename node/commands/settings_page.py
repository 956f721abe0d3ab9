"""The protocol parameters that decide what a model is made of, in words."""

from __future__ import annotations

from typing import Any


def describe_settings(settings: dict[str, Any]) -> list[str]:
    """Parts of one line. `bad_groups`, reputation and weighting are told where they are set."""
    noise = settings["noise_multiplier"]
    options = ", ".join(f"{key} {value}" for key, value in settings["rule_options"].items())
    rule = f"{settings['rule']} ({options})" if options else str(settings["rule"])
    parts = [f"rule {rule}"]
    if settings["bad_groups"]:
        parts.append(f"up to {settings['bad_groups']:.0%} of the groups may be bad")
    if settings["reputation"]:
        parts.append("clients have a reputation")
    if settings["weighting"] != "uniform":
        parts.append(f"weighted by {settings['weighting']}, at most {settings['examples_cap']}")
    return [
        *parts,
        f"server {settings['server_optimizer']}, rate {settings['server_learning_rate']:g}",
        f"clip {settings['clip']:g}",
        f"noise {f'{noise:g}' if noise else 'off'}",
        f"groups of {settings['min_group']} to {settings['max_group']}",
        f"{settings['replicas']} replicas, {settings['byzantine']} may lie",
    ]
