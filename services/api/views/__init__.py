"""Docker's JSON, as Docker spells it, per API version."""
