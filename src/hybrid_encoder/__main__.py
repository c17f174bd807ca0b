"""Run the command line as ``python -m hybrid_encoder``."""

from hybrid_encoder.cli import main

main()
