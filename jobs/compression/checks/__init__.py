"""Checks of steps and files."""
