"""Classification: one label of C for a text or a pair of texts."""
