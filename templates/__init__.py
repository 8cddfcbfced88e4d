"""CUDA sources: ``ptx`` (one instruction family a file), ``tile`` (fragments and copies), one template per block."""
