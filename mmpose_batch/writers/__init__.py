"""What a result becomes on disk."""

from .stock import StockWriter

__all__ = ['StockWriter']
