"""Output formats of a run, one module for each."""
