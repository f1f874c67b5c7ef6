"""From a model to the file of a runtime, one file each."""
