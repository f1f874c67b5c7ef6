"""Every section of a recipe, and the tables that recipes are checked against; nothing here needs more than pydantic."""
