"""The scorers, and what those that speak HTTP share."""
