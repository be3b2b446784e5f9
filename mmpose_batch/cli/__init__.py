"""Implementations of ``mmpose-batch COMMAND`` and of the scripts in tools/."""

from .dispatch import main

__all__ = ['main']
