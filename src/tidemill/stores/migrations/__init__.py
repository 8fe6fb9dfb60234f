"""The schema's history: files `versions/<revision>_<what>.py`, run by `stores.upgrade`.

A migration runs in one transaction on SQLite and PostgreSQL, together with the record that it ran. It names its tables
itself and imports nothing of Tidemill, so that it means the same for ever.
"""
