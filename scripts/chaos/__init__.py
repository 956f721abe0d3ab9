"""Misfortune between real processes: links that misbehave, deployments whose every link runs through one.

For tests and `scripts/soak.py` only. Nothing of the program imports this, and the program knows nothing of it:
the nodes find each other through deployment files whose addresses are those of the links.
"""
