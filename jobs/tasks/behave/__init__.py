"""What a customer does next: histories of items, the next ones ranked, and how likely a purchase is."""
