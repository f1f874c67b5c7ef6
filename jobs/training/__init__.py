"""The train loop and what it minimises."""
