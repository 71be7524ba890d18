"""The process that stays beside a container's process: its streams, its log, its clients, its exit record."""
