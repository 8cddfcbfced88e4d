"""Waterline analysis: kernel sequences of blocks, networks and traced models against a device's waterline."""
