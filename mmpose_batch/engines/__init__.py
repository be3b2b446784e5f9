"""Inference engines: one file per engine, and the code that they share."""
