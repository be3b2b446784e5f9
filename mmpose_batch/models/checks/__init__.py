"""Checks of configs and models before anything is computed; each error is one line."""
