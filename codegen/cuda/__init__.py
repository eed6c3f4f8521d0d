"""CUDA: kernels of loop nests, the program of a grouped graph, and its compilation to PTX; needs no device."""
