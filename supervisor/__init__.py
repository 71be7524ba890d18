"""The engine's processes: guarded, started, heard, and started again when they end."""
