"""From a Python function to a Graph: traced arrays, NumPy's namespace, captures, trees, the user's lines."""
