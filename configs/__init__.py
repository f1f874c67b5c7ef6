"""What a user edits: one recipe per task, and the reader that turns a recipe into typed values."""
