"""The ordered list of passes, signatures, caches, and the execution of what was compiled."""
