"""Compression steps, one pure function each, and the table that orders them."""
