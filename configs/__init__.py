"""The recipes that users edit, one per task, and the reader that turns a recipe into typed values."""
