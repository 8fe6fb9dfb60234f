"""REMEMBER: everything that outlives a process. Only this package knows SQL and file formats."""
