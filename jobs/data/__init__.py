"""Rows from files to tokenised, length-known shards, and batches out of them."""
