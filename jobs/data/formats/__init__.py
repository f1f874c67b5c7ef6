"""One file for each form in which rows are stored."""
