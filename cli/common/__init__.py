"""What the commands share: how they are found, which engine they mean, how they show lists, how they end."""
