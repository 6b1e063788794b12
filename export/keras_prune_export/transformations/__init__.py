"""Graph edits: one a file, each returns what it changed."""
