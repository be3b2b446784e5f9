"""Passes over the ordered results of videos: each takes an iterator of results and yields them."""
