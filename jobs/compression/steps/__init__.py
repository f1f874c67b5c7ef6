"""The steps of a compression, one file each."""
