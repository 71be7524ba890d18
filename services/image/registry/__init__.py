"""The registry client: where a registry is, how it wants to be asked, and what is fetched from it and sent to it."""
