"""What the services share: bus, byte streams, contracts, events, errors, configuration, database, health."""
