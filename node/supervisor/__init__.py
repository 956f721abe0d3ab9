"""Runs a whole deployment on this machine: starts, watches, kills, restarts, measures, reports.

Imports no torch: what needs it runs in the evaluator's process.
"""
