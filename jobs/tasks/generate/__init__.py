"""Generation: a text that follows from a prompt, or from attributes."""
