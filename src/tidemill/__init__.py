"""Tidemill keeps a deployed deep-learning model learning."""
