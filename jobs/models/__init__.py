"""Teachers and students as torch modules that reload from plain files."""
