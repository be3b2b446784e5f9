"""Checks of configs and models before inference, whose error messages are one line each."""
