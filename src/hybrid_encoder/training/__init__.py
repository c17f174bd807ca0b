"""Training with language guidance: what the stages are made of."""
