"""The commands: what ``mmpose-batch COMMAND`` and the scripts of tools/ run."""

from .dispatch import main

__all__ = ['main']
