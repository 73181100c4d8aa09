"""Attacks that poison batches while they are trained on, and those whose trigger a network learns meanwhile."""
