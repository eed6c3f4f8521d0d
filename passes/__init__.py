"""Graph to graph: functionalize, jvp, linearize, transpose, vmap, simplify, fuse; none changes its input."""
