"""Scanner images: where their list comes from, and what a tag of a request means."""
