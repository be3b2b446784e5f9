"""Inference by several processes: chunks, the worker that infers one, and which file killed it."""
