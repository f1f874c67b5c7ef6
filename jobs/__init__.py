"""The verbs a user runs, and the ingredients that belong to them."""
