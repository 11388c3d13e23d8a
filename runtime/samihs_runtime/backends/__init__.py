"""Where the graphs run: one small protocol, one module per backend."""
