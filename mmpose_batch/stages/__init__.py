"""Stages of the pipeline: reading, detection, crops and poses."""
