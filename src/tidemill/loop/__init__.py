"""CONTROL PLANE: the journalled steps, from curate to release, and the engine that takes them."""
