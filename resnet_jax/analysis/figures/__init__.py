"""The pictures of the analyses, a file for each kind."""
