"""Tuned configs, one JSON file per block and GPU."""
