"""The sections of a recipe, and the tables that recipes are checked against; needs pydantic alone."""
