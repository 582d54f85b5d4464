"""How the bytes come about: tracing, casting, quantising."""
