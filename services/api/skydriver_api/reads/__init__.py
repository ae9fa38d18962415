"""Reading the views: typed, bounded queries and what is remembered of their results."""
