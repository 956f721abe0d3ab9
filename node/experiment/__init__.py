"""Experiments: seeded virtual-time runs of the real state machines with real training, and what they compare to."""
