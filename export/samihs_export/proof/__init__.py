"""The proof of an export: torch's answers, and how near each graph must come to them."""
