"""How each service writes requests and responses."""
