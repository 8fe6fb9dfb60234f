"""CONTROL PLANE: the journalled steps curate, label, watch, form, train, test, release, and the engine that takes them."""
