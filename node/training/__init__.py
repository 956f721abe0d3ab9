"""Training: tasks (own or built in), the client's trainer, evaluation, model files, the FedAvg baseline.

This package imports no torch by itself; `node.training.loader` neither, until a task is built.
"""
