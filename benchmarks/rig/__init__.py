"""The parts of the client benchmark: the texts, the clients, the service and the report."""
