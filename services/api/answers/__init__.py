"""The shapes of answers, as Docker spells them: what the views make, and what the description shows."""
