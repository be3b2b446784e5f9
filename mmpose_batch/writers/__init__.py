"""What a result becomes on disk."""

from .mmpose import StockWriter

__all__ = ['StockWriter']
