"""Metric, latency and size of exported files, in a fresh process with pinned threads."""
