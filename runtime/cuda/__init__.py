"""CUDA devices: memory, streams, device arrays and the execution of device programs."""
