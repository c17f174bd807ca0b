"""Where names of a repository are replaced, and the way back."""
