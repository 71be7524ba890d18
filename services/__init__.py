"""The services of the engine, one package each; they meet only on the bus."""
