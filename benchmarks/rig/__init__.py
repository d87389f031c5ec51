"""The parts of the client benchmark: what is sent, who sends it, and who answers."""
