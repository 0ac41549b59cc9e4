"""What several methods share, and pieces of one that stand on their own."""
