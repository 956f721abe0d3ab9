"""Experiments with malicious clients: attacks on learning against aggregation rules, in the clear and under groups."""
