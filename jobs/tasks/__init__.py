"""The tasks, a folder each: examples out of rows, loss, metric, answers."""
