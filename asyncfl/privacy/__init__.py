"""Differential privacy: accounting, calibration, the client's ledger, planning (protocol section 7).

Imports `dp_accounting` and SciPy, but no torch.
"""
