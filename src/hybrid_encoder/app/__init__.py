"""The page in the browser: what ``hybrid-encoder app`` serves; the package of the extra ``app`` is needed for it."""
