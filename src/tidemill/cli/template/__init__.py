"""The project that `tidemill init` writes and `tidemill demo` runs."""
