"""Versions at work outside the gateway: batch prediction over tables."""
