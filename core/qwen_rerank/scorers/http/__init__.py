"""What the scorers of all remote services share."""
