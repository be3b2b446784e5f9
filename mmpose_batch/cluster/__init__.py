"""Inference on a cluster of machines, by Ray Data."""
