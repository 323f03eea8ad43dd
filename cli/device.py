"""A GPU that was asked for and is not there."""

from ibkd_retrieval.indexing.gpu import device_there

__all__ = ["device_there"]
