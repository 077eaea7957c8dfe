"""The parts of the probe: what it asks, its pass, and what it reads of outputs, scores and cuts."""
