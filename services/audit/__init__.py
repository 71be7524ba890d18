"""The audit service: numbers what was recorded, keeps it so that changes show, and delivers it."""
