"""Runs over many files: results are written image by image, and a killed run can be resumed."""
