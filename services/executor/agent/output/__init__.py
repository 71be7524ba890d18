"""What containers write and what is typed into them: logs and attachments."""
